"""``levit-deploy export`` as its user meets it."""

import json
import re

import numpy as np
import onnx
import pytest
import torch
from command_line import names_in, run
from networks import SMALL, float64_logits, images, trained

from levit_deploy.targets import plan
from levit_deploy.targets.load import load_artifact


def test_the_report_of_an_export_as_json(folder):
    code, out, _ = run(
        "export", folder / "ckpt.pth", "--layout", "tokens", "--opset", "23", "--json", "-"
    )
    data = json.loads(out)
    assert code == 0
    assert data["layout"] == "tokens"
    assert data["facts"]["opset"] == 23
    assert data["verification"]["passed"] is True
    assert data["size_bytes"] == (folder / "ckpt.onnx").stat().st_size


def test_the_precision_is_printed_and_reported(folder):
    path = folder / "ckpt.pth"
    code, out, _ = run("export", path, "--precision", "fp16", "--json", folder / "report.json")
    assert code == 0
    assert "ckpt.onnx: onnx in onnxruntime, fp16, spatial layout" in out
    report = json.loads((folder / "report.json").read_text())
    assert report["verification"]["precision"] == "fp16"
    code, out, _ = run("verify", path, folder / "ckpt.onnx")
    assert code == 0
    assert "ckpt.onnx: onnx in onnxruntime, fp16, held to the mean head" in out


@pytest.mark.parametrize(
    ("format", "precision"), [("torchscript", "fp16"), ("onnx", "bf16"), ("onnx", "fp8")]
)
def test_a_precision_that_makes_no_sense_is_a_usage_error(folder, format, precision):
    arguments = ("--format", format, "--precision", precision)
    code, _, err = run("export", folder / "ckpt.pth", *arguments)
    assert code == 2
    assert "precision" in err
    assert names_in(folder) == ["ckpt.pth"]


@pytest.mark.slow
def test_torchscript_comes_with_a_sentence_on_its_successor(folder):
    told = "note: TorchScript is deprecated since PyTorch 2.11; its successor is --format pt2\n"
    for more, expected in (((), told), (("-q", "--force"), "")):
        code, _, err = run("export", folder / "ckpt.pth", "--format", "torchscript", *more)
        assert (code, err) == (0, expected)


@pytest.mark.slow
def test_the_weights_of_a_training_run_are_chosen(folder):
    path = folder / "run.pth"
    torch.save({"model": trained().state_dict(), "model_ema": trained(seed=9).state_dict()}, path)
    code, _, err = run("inspect", path)
    assert code == 3
    assert "--weights" in err
    assert run("export", path, "--weights", "ema", "-o", folder / "ema.onnx")[0] == 0
    assert run("verify", path, folder / "ema.onnx", "--weights", "ema")[0] == 0
    assert run("verify", path, folder / "ema.onnx", "--weights", "model")[0] == 1


@pytest.mark.slow
def test_an_activation_the_file_does_not_tell(folder):
    path = folder / "ckpt.pth"
    assert run("export", path, "--activation", "silu", "-o", folder / "silu.onnx")[0] == 0
    assert run("verify", path, folder / "silu.onnx", "--activation", "silu")[0] == 0
    assert run("verify", path, folder / "silu.onnx")[0] == 1


def test_a_fixed_batch(folder):
    assert run("export", folder / "ckpt.pth", "--batch-size", "4")[0] == 0
    assert run("verify", folder / "ckpt.pth", folder / "ckpt.onnx")[0] == 0


@pytest.mark.slow
def test_another_image_size_goes_through_every_command(folder):
    path, artifact = folder / "ckpt.pth", folder / "large.onnx"
    size = ("--image-size", "96x128")
    code, out, _ = run("inspect", path, *size)
    assert code == 0
    assert "3 x 96 x 128" in out
    code, out, _ = run("export", path, *size, "-o", artifact)
    assert code == 0
    assert "interpolated attention biases: re-measure the accuracy" in out
    code, out, _ = run("verify", path, artifact, *size)
    assert code == 0
    code, _, err = run("verify", path, artifact)
    assert code == 1
    assert "(3, 96, 128)" in err
    code, out, _ = run("fuse", path, *size, "-o", folder / "large.safetensors")
    assert code == 0
    code, out, _ = run("export", folder / "large.safetensors", "-o", folder / "again.onnx")
    assert code == 0
    assert "re-measure the accuracy" in out


@pytest.mark.parametrize("command", ["export", "fuse"])
def test_a_proof_on_pictures(folder, photos, command):
    path, artifact = folder / "ckpt.pth", folder / "artifact"
    code, out, _ = run(command, path, "-o", artifact, "--images", photos)
    assert code == 0
    assert "pictures   3  " in out
    words = "pictures are prepared as for ImageNet: crop 0.875, bicubic, mean 0.485 0.456 0.406"
    assert f"assumed: {words}" in " ".join(out.split())
    proven_on_them = artifact.read_bytes()
    assert run(command, path, "-o", artifact, "--force")[0] == 0
    assert artifact.read_bytes() == proven_on_them


@pytest.mark.slow
def test_a_problem_type_of_several_labels_is_shown_and_has_no_answers(hub, photos):
    assert "problem type" not in run("inspect", hub)[1]
    path = hub / "config.json"
    stated = {"problem_type": "multi_label_classification"}
    path.write_text(json.dumps(json.loads(path.read_text()) | stated))
    assert "problem type multi_label_classification" in " ".join(run("inspect", hub)[1].split())
    code, _, err = run("export", hub, "--output-type", "probabilities")
    assert code == 2
    assert "a problem_type of multi_label_classification" in " ".join(err.split())
    assert run("export", hub, "-q")[0] == 0
    for command in ("predict", "evaluate"):
        code, out, err = run(command, hub.parent / "levit.v1.onnx", photos)
        assert (code, out) == (3, "")
        assert "has no most probable class" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--format", "tflite"),
        ("--opset", "10"),
        ("--opset", "24"),
        ("--batch-size", "0"),
        ("--batch-size", "many"),
        ("--image-size", "12y"),
        ("--image-size", "9" * 5000),
        ("--head", "both"),
        ("--weights", "ema"),
        ("--format", "torchscript", "--batch-size", "2"),
    ],
)
def test_options_that_make_no_sense_exit_with_2(folder, arguments):
    code, _, err = run("export", folder / "ckpt.pth", *arguments)
    assert code == 2
    assert arguments[-2] in err  # the message names the option
    assert names_in(folder) == ["ckpt.pth"]


def test_a_network_of_two_channels_takes_no_pictures(folder, photos):
    path = folder / "two.pth"
    torch.save({"model": trained(SMALL.replace(in_channels=2)).state_dict()}, path)
    code, _, err = run("export", path, "--images", photos)
    assert code == 2
    assert "2 channels" in err


@pytest.mark.slow
def test_what_was_assumed_is_said_at_every_export_and_kept_by_fuse(folder):
    for command in ("export", "fuse"):
        code, out, _ = run(command, folder / "ckpt.pth")
        assert code == 0
        assert "assumed: the activation is hardswish" in out
    _, out, _ = run("export", folder / "ckpt.fused.safetensors", "--json", "-", "-o", folder / "f")
    assert any("hardswish" in assumption for assumption in json.loads(out)["assumed"])


def test_verify_names_the_assumptions_too(folder):
    file = folder / "told.onnx"
    assert run("export", folder / "ckpt.pth", "-o", file)[0] == 0
    _, out, _ = run("verify", folder / "ckpt.pth", file, "--trained-size", "64x96")
    assert "verdict: proven, if the activation is hardswish" in out
    assert "assumed: the activation is hardswish, as in every LeViT published" in out
    assert "reading: not checked" in out


def test_a_verdict_names_the_assumptions_it_rests_on(folder):
    file, conditional = folder / "told.onnx", "proven, if the activation is hardswish"
    _, out, _ = run("export", folder / "ckpt.pth", "-o", file)
    assert f"verdict: {conditional}" in out
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(metadata["proven_if"]) == ["the activation is hardswish"]
    for options, verdict in (((), conditional), (("--activation", "hardswish"), "proven")):
        _, out, _ = run("verify", folder / "ckpt.pth", file, *options, "--json", "-")
        assert json.loads(out)["verification"]["verdict"] == verdict


def test_the_authors_logits_make_a_verdict_unconditional(folder):
    file = folder / "told.onnx"
    assert run("export", folder / "ckpt.pth", "-o", file)[0] == 0
    expect = folder / "expect.npz"
    np.savez(expect, input=images().numpy(), logits=float64_logits(trained(), images()))
    for command in (("export", "-o", folder / "e.onnx"), ("verify", file), ("fuse",), ("inspect",)):
        name, *rest = command
        code, out, _ = run(name, folder / "ckpt.pth", *rest, "--expect", expect)
        assert code == 0
        out = " ".join(out.split())
        assert "checked against its author's logits" in out
        assert name == "inspect" or "verdict: proven" in out
        assert "proven, if" not in out
    fused = folder / "ckpt.fused.safetensors"  # written above
    _, out, _ = run("export", fused, "-o", folder / "f.onnx")
    assert "reading: checked against its author's logits in expect.npz: 3 images" in out
    code, _, err = run("export", folder / "ckpt.pth", "--expect", expect, "--head", "class")
    assert code == 2
    assert "Export with --head mean" in err


def test_a_failed_export_shows_its_figures(folder, monkeypatch):
    plain = plan.to_plain
    monkeypatch.setattr(plan, "to_plain", lambda model, *_: plain(model, "class"))
    code, out, err = run("export", folder / "ckpt.pth")
    assert code == 1
    assert out.count("FAILED") == 6
    assert "On normal" in err
    assert names_in(folder) == ["ckpt.pth"]


@pytest.mark.slow
def test_bytes_probabilities_labels_and_preprocessing(folder):
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    told = ("--preprocessing", "mean 0.5, std 0.25")
    ends = ("--input-type", "uint8", "--output-type", "probabilities")
    labels = ("--labels", folder / "labels.txt")
    artifact = folder / "out.onnx"
    code, out, _ = run("export", folder / "ckpt.pth", "-o", artifact, *ends, *told, *labels)
    assert code == 0
    assert "mean head, uint8 input, probabilities, nodes" in out
    assert "pictures are prepared as" not in out  # as they were told
    assert json.loads(load_artifact(artifact).metadata["labels"]) == list("abcdefg")
    code, out, _ = run("verify", folder / "ckpt.pth", artifact, *told, "--json", "-")
    assert code == 0
    proof = json.loads(out)["verification"]
    assert (proof["input"], proof["output"]) == ("uint8", "probabilities")
    code, _, err = run("verify", folder / "ckpt.pth", artifact)
    assert code == 1
    assert "--preprocessing" in err
    (folder / "others.txt").write_text("b\na\nc\nd\ne\nf\ng\n")
    labels_of_another = ("--labels", folder / "others.txt")
    code, _, err = run("verify", folder / "ckpt.pth", artifact, *told, *labels_of_another)
    assert code == 1
    assert "calls the class 0 'a'" in err

    fused = folder / "fused.safetensors"
    assert run("fuse", folder / "ckpt.pth", "--output", fused, *told, *labels, "-q")[0] == 0
    code, out, _ = run("inspect", fused)
    assert "7: a, b, c, ..." in out
    assert "crop 0.875, bicubic, mean 0.5, std 0.25" in out
    assert json.loads(run("inspect", fused, "--json", "-")[1])["labels"] == list("abcdefg")
    assert "none" in run("inspect", folder / "ckpt.pth")[1]


@pytest.mark.parametrize("command", ["export", "fuse"])
def test_how_pictures_are_prepared_is_said_where_it_was_assumed(folder, command):
    said = "assumed: pictures are prepared as for ImageNet: crop 0.875, bicubic, mean"
    code, out, _ = run(command, folder / "ckpt.pth")
    assert code == 0
    assert said in out
    told = ("--preprocessing", "mean 0.5", "--force")
    assert "pictures are prepared" not in run(command, folder / "ckpt.pth", *told)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("--preprocessing", "mean 2"), 2, "cannot be understood"),
        (("--labels", "nowhere.txt"), 3, "nowhere.txt cannot be read"),
        (("--labels", "few.txt"), 2, "2 labels were given"),
        (("--labels", "few.txt", "-o", "few.txt", "--force"), 5, "few.txt"),
        (("--output-type", "out.onnx"), 2, "logits"),
    ],
)
def test_what_cannot_be_told_is_refused(folder, monkeypatch, arguments, code, expected):
    monkeypatch.chdir(folder)
    (folder / "few.txt").write_text("a\nb\n")
    found, _, err = run("export", "ckpt.pth", *arguments)
    assert found == code
    assert expected in " ".join(err.split())
    assert names_in(folder) == ["ckpt.pth", "few.txt"]
    assert (folder / "few.txt").read_text() == "a\nb\n"


STATIONS = (
    "read .*ckpt.pth: [0-9,]+ bytes, official, custom",
    "pass fuse_batchnorm, modules replaced: 30",
    "pass fold_layernorm, modules replaced: 0",
    "pass bake_attention_bias, modules replaced: 6",
    "pass fold_scale, modules replaced: 6",
    "pass average_heads, modules replaced: 1",
    "pass pool_early, modules replaced: 2",
    "wrote [0-9,]+ bytes as onnx, spatial layout: .*tmp",
    "opened the file in onnxruntime: batch free",
    "proving .*: onnx, fp32, mean head",
    r"compared \d+ images with the original, alone: ",
    r"compared \d+ batches with the images alone: ",
    "proven: renaming the file to .*ckpt.onnx",
)


def test_verbose_names_each_station_once_and_in_order(folder):
    code, _, err = run("export", folder / "ckpt.pth", "-q", "-v")
    assert code == 0
    lines = err.splitlines()
    assert all(re.match(r" *\d+ ms  ", line) for line in lines)
    at = [[i for i, line in enumerate(lines) if re.search(station, line)] for station in STATIONS]
    assert [len(places) for places in at] == [1] * len(STATIONS)
    assert at == sorted(at)
    assert len(lines) <= 16


def test_an_empty_output_is_no_name(folder):
    code, _, err = run("export", folder / "ckpt.pth", "-o", "")
    assert (code, "-o names nothing" in err) == (2, True)
    assert names_in(folder) == ["ckpt.pth"]
