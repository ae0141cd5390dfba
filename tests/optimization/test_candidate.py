"""The candidates are all that the runtimes can run, the simpler first, each with its command."""

import pytest
from every_format import EXTRAS

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import UsageError
from levit_deploy.optimization import candidate as module
from levit_deploy.optimization.candidate import (
    RUNTIMES,
    candidates,
    default_runtimes,
    require_runtimes,
)
from levit_deploy.optimization.rules import Wishes
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.onnx import ONNX_FOR_OPENVINO


@pytest.fixture(scope="module")
def checkpoint(proven):
    return read_checkpoint(proven / "ckpt.pth")


def labels(checkpoint, wishes=None, judged=True, runtimes=RUNTIMES):
    return [c.label for c in candidates(checkpoint, runtimes, wishes or Wishes(), judged=judged)[0]]


def test_every_form_of_every_target_is_a_candidate_or_is_left_out(checkpoint):
    taken, left_out = candidates(checkpoint, RUNTIMES, Wishes(), judged=True)
    forms = [form for target in (*TARGETS.values(), ONNX_FOR_OPENVINO) for form in target.forms]
    extra = {"native code, torch", "int8, opset 17, for VNNI, onnxruntime"}
    extra |= {"int8, opset 23, for VNNI, onnxruntime"}
    every = {c.label for c in taken} | {form.label for form in left_out}
    assert len(every - extra) == len(forms)
    assert len({c.file_name for c in taken}) == len(taken)


def test_the_simpler_comes_first(checkpoint):
    """Less rounding, then the runtime that needs the least, then the defaults of ``export``."""
    assert labels(checkpoint, runtimes=["onnxruntime"])[:5] == [
        "spatial, onnxruntime",
        "tokens, onnxruntime",
        "tokens, opset 23, onnxruntime",
        "fp16, onnxruntime",
        "int8, opset 23, onnxruntime",
    ]
    every = [c.plan.precision for c in candidates(checkpoint, RUNTIMES, Wishes(), judged=True)[0]]
    assert list(dict.fromkeys(every)) == [
        p for p in ("fp32", "bf16", "fp16", "int8-dynamic", "int8") if p in every
    ]


@pytest.mark.parametrize("wishes", [Wishes(), Wishes(output="features")])
def test_nothing_is_rounded_that_no_picture_can_judge(checkpoint, wishes):
    judged = wishes.output == "features"
    taken, left_out = candidates(checkpoint, ["onnxruntime", "litert"], wishes, judged=judged)
    assert all(c.is_exact for c in taken)
    reasons = {form.label: form.reason for form in left_out}
    reason = reasons["int8-dynamic, litert"]
    assert ("features answer nothing" if judged else "--images DIR") in reason


def test_bfloat16_and_vnni_are_for_processors_that_have_them(checkpoint, monkeypatch):
    monkeypatch.setattr(module, "has_any", lambda _flags: False)
    without = labels(checkpoint, runtimes=["torch", "onnxruntime"])
    monkeypatch.setattr(module, "has_any", lambda _flags: True)
    with_them = labels(checkpoint, runtimes=["torch", "onnxruntime"])
    assert set(with_them) - set(without) == {
        "pt2, bf16, torch",
        "torchscript, bf16, torch",
        "int8, opset 17, for VNNI, onnxruntime",
        "int8, opset 23, for VNNI, onnxruntime",
    }


def test_runtimes_that_are_not_installed_are_left_out_unless_asked_for(monkeypatch):
    monkeypatch.setattr(module, "is_installed", lambda _package: False)
    assert default_runtimes() == ("onnxruntime", "torch")
    monkeypatch.setattr("levit_deploy.extras.is_installed", lambda _package: False)
    for extra, package in EXTRAS.items():
        with pytest.raises(UsageError, match=f"--runtime {extra} needs {package}"):
            require_runtimes([extra])
    assert require_runtimes(["torch", "onnxruntime"]) == ("onnxruntime", "torch")
    assert require_runtimes("torch") == ("torch",)
    with pytest.raises(UsageError, match=r"--runtime 'tensorrt' is not one of onnxruntime, "):
        require_runtimes(["tensorrt"])


def test_the_command_says_what_differs_from_the_defaults(checkpoint):
    wishes = Wishes(head="class", input="uint8", output="probabilities", batch_size=4)
    by_label = {
        c.label: c.command(["my ckpt.pth"], ["--images", "val"], "out")
        for c in candidates(checkpoint, RUNTIMES, wishes, judged=True)[0]
    }
    ends = "--head class --input-type uint8 --output-type probabilities"
    start = "levit-deploy export 'my ckpt.pth'"
    assert by_label["spatial, onnxruntime"] == f"{start} {ends} -o out"
    assert by_label["tokens, openvino"] == (
        f"{start} --runtime openvino {ends} --batch-size 4 -o out"
    )
    assert by_label["tokens, litert"] == f"{start} --format litert {ends} --batch-size 4 -o out"
    assert by_label["int8, opset 17, onnxruntime"] == (
        f"{start} --precision int8 {ends} --opset 17 --images val --even-if-slower -o out"
    )
    usual = {
        c.label: c.command(["ckpt"], [], "out")
        for c in candidates(checkpoint, RUNTIMES, Wishes(), judged=False)[0]
    }
    assert usual["tokens, litert"] == "levit-deploy export ckpt --format litert -o out"
    assert usual["tokens, opset 23, onnxruntime"] == "levit-deploy export ckpt --opset 23 -o out"
    assert usual["spatial, openvino"].endswith("--runtime openvino --layout spatial -o out")
