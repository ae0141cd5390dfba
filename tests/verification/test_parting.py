import copy
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import SMALL, trained
from onnx import numpy_helper
from torch import nn

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import BackendError, VerificationError
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.fused import module_values
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx_writer import to_onnx
from levit_deploy.targets.target import ExportOptions
from levit_deploy.targets.torchscript import torchscript_values
from levit_deploy.targets.torchscript_writer import deprecation_accepted, to_torchscript
from levit_deploy.verification import block_by_block
from levit_deploy.verification.inputs import standard_cases
from levit_deploy.verification.parting import Parting, compare_blocks, find_parting
from levit_deploy.verification.steps import Step, steps

MODEL = trained()
IMAGES = standard_cases(SMALL, seed=0)[0].draw(3)
STEPS = steps(MODEL)
NAMES = [step.name for step in STEPS]
PROVENANCE = Provenance(checkpoint_sha256="", config=SMALL, head="mean", layout="tokens")


def head(plain, images=IMAGES):
    with torch.inference_mode():
        return {"head": plain(torch.from_numpy(images)).numpy()}


def compared(values, outputs, precision="fp32", images=IMAGES):
    """The blocks of the model beside an artifact's values, a row for each image."""
    own = [value.reshape(len(images), -1) for value in values if value.size % len(images) == 0]
    return compare_blocks(STEPS, (images.astype(np.float64), images), own, outputs, precision)


def values_of(proto, images):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact.onnx"
        onnx.save(proto, path)
        return list(load_artifact(path).values(images))


def floats(values):
    return [value.float().numpy() for value in values if value.is_floating_point()]


def by_onnx(plain, images=IMAGES, **options):
    return values_of(to_onnx(plain, PROVENANCE, **options), images)


def by_torchscript(plain, images=IMAGES):
    with deprecation_accepted():
        program = torch.jit.load(io.BytesIO(to_torchscript(plain, PROVENANCE)))
    return floats(torchscript_values(program, images))


def by_fused(plain, images=IMAGES):
    return floats(module_values(plain, images))


FORMS = {
    "onnx-tokens": by_onnx,
    "onnx-spatial": lambda plain: by_onnx(to_spatial(plain)),
    "torchscript-tokens": by_torchscript,
    "torchscript-spatial": lambda plain: by_torchscript(to_spatial(plain)),
    "fused": by_fused,
}


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(MODEL.state_dict(), tmp_path / "ckpt.pth")
    return read_checkpoint(tmp_path / "ckpt.pth")


def wrong_from(name):
    """The model with one parameter of one block wrong."""
    model = trained()
    weight = next(p for p in model.get_submodule(name).parameters() if p.dim() > 1)
    weight.data.view(-1)[0] += 0.1
    return to_plain(model)


@pytest.mark.parametrize("values", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("block", ["patch_embed.0", "blocks.0", "blocks.4", "blocks.10", "head"])
def test_the_block_that_is_wrong_is_named(values, block):
    wrong = wrong_from(block)
    parting = find_parting(compared(values(wrong), head(wrong)))
    before = NAMES.index(block) - 1
    assert parting.block == block
    assert parting.after == (NAMES[before] if before >= 0 else None)
    assert parting.rmse > parting.allowed > 0


@pytest.mark.parametrize("values", FORMS.values(), ids=FORMS)
def test_a_right_artifact_parts_nowhere(values):
    right = to_plain(MODEL)
    assert find_parting(compared(values(right), head(right))) is None


def test_an_error_behind_the_head_is_the_heads():
    right = to_plain(MODEL)
    wrong = head(right)["head"] * np.float32(1.001)
    parting = find_parting(compared(by_onnx(right), {"head": wrong}))
    assert (parting.block, parting.after) == ("head", NAMES[-2])
    assert parting.rmse > parting.allowed


def test_any_operator_set_and_a_fixed_batch_is_looked_into(tmp_path, checkpoint):
    for opset, batch in ((17, 2), (23, 8)):
        options = ExportOptions(opset=opset, batch_size=batch)
        path = tmp_path / f"{opset}.onnx"
        pipeline.export(checkpoint, "onnx", path, options=options)
        corrupt(path, "blocks.2.m.proj.1.bias")
        assert pipeline.verify(checkpoint, path).parting.block == checkpoint.block_names["blocks.2"]


def test_without_a_value_of_the_size_no_error_is_told():
    parting = find_parting(compared([], head(to_plain(MODEL))), every=True)
    assert (parting.block, parting.after, parting.rmse) == (NAMES[0], None, None)
    assert "and has no value of that block's size" in str(parting)


def test_nan_is_found_where_it_begins():
    plain = to_plain(MODEL)
    plain.blocks[1].m[0].bias.data[0] = np.nan
    parting = find_parting(compared(by_onnx(plain), head(plain)))
    assert parting.block == "blocks.1"
    assert parting.rmse == np.inf
    assert "first at blocks.1, with NaN or infinity." in str(parting)


def test_in_words():
    parting = Parting("stages.0.blocks.0.mlp", "blocks.0", 2e-3, 1e-6, 2000)
    assert str(parting) == (
        "It agrees up to blocks.0 and parts from the original first at stages.0.blocks.0.mlp, by "
        "an RMSE of 2.00e-03, with 1.00e-06 allowed."
    )
    words = str(Parting("patch_embed.0", None, 1.0, 1e-6, 1e6))
    assert words.startswith("It parts from the original first at patch_embed.0, by an RMSE")
    words = str(Parting("blocks.0", None, 1e-7, 1e-6, 3.2))
    assert words.endswith("at blocks.0, by 3.2 times the largest error allowed.")


def corrupt(path, tensor_name):
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == tensor_name)
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[0] += 0.1
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, path)


def test_verify_names_the_block_as_the_checkpoint_does(tmp_path, checkpoint):
    names = {name: f"theirs.{name}" for name in NAMES}
    pipeline.export(checkpoint, "onnx", tmp_path / "a.onnx")
    corrupt(tmp_path / "a.onnx", "blocks.3.m.0.bias")
    found = pipeline.verify(replace(checkpoint, block_names=names), tmp_path / "a.onnx")
    assert found.parting.block == "theirs.blocks.3"
    assert found.parting.after == "theirs.blocks.2"
    with pytest.raises(Exception, match=r"original first at theirs\.blocks\.3, by"):
        found.raise_if_failed()


def test_where_no_block_can_be_named_the_proof_says_so(tmp_path, checkpoint, monkeypatch):
    def cannot_tell(*_, **__):
        raise BackendError("the values cannot be had")

    pipeline.export(checkpoint, "onnx", tmp_path / "a.onnx")
    corrupt(tmp_path / "a.onnx", "blocks.3.m.0.bias")
    monkeypatch.setattr(block_by_block, "compare_blocks", cannot_tell)
    found = pipeline.verify(checkpoint, tmp_path / "a.onnx")
    with pytest.raises(VerificationError, match="No block can be named as the first to part"):
        found.raise_if_failed()


@pytest.mark.parametrize("batch_size", [None, 1, 3, 16])
def test_a_proof_that_holds_has_every_block(tmp_path, checkpoint, batch_size):
    named = replace(checkpoint, block_names={"blocks.4": "theirs.blocks.4"})
    options = ExportOptions(batch_size=batch_size)
    proof = pipeline.export(named, "onnx", tmp_path / "a", options=options).verification
    assert proof.parting is None
    assert [block.name for block in proof.blocks] == [
        "theirs.blocks.4" if name == "blocks.4" else name for name in NAMES
    ]
    assert all(block.agrees and 0 < block.rmse <= block.allowed for block in proof.blocks)


def test_a_block_is_judged_on_the_input_that_it_gets():
    """By hand: each block in float64, on the value behind the block before."""
    values = list(by_onnx(to_plain(MODEL), IMAGES))
    results = compared(values, head(to_plain(MODEL)))
    own = [value.reshape(len(IMAGES), -1) for value in values if value.size % 3 == 0]
    x = torch.from_numpy(IMAGES).double()
    for step, result in list(zip(STEPS, results, strict=True))[:8]:
        with torch.inference_mode():
            out = copy.deepcopy(step.module).double()(x)
        views = [out] if out.dim() == 4 else [out, out.mT]
        errors = [
            (np.sqrt(np.mean((value - view.flatten(1).numpy()) ** 2)), value, view)
            for view in views
            for value in own
            if value.shape == view.flatten(1).shape
        ]
        rmse, value, view = min(errors, key=lambda error: error[0])
        assert result.rmse == pytest.approx(rmse)
        given = torch.from_numpy(value).double().view(view.shape)
        x = given if view is views[0] else given.mT
        assert 0 < result.rmse <= result.allowed


def test_an_error_that_later_blocks_drown_is_found():
    """The second block is loud and wrong by little; its own output shows it, the next hides it."""
    first, loud = nn.Linear(4, 4), nn.Linear(4, 4)
    with torch.no_grad():
        loud.weight.mul_(1e-6)
        loud.bias.fill_(100.0)
    cut = [Step("blocks.0", first.eval()), Step("blocks.1", loud.eval())]
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    with torch.inference_mode():
        wrong = first(torch.from_numpy(x)) * 1.001
        values = [wrong.numpy(), loud(wrong).numpy()]
    results = compare_blocks(cut, (x.astype(np.float64), x), values, {})
    assert [result.agrees for result in results] == [False, True]
    assert find_parting(results, every=True).block == "blocks.0"
    assert find_parting(results) is None  # another tool's file may have no such value


def test_an_exact_value_may_be_some_steps_of_the_precision_off():
    exact = np.array([[1.0, 0.5, 0.25]])
    cut, given = [Step("head", nn.Identity())], (exact, exact.astype(np.float32))
    value = exact.astype(np.float32) + np.float32(2.0**-10)
    assert compare_blocks(cut, given, [], {"head": value}, "fp16")[0].agrees
    assert not compare_blocks(cut, given, [], {"head": value}, "fp32")[0].agrees


def by_onnx_in_float16(plain, layout="tokens", opset=17):
    provenance = Provenance(
        checkpoint_sha256="", config=SMALL, head="mean", layout=layout, precision="fp16"
    )
    return values_of(to_onnx(plain, provenance, opset=opset), IMAGES)


def by_torchscript_in_bfloat16(plain, layout="tokens"):
    provenance = Provenance(
        checkpoint_sha256="", config=SMALL, head="mean", layout=layout, precision="bf16"
    )
    with deprecation_accepted():
        program = torch.jit.load(io.BytesIO(to_torchscript(plain, provenance)))
    return floats(torchscript_values(program, IMAGES))


REDUCED = {
    "fp16-tokens": by_onnx_in_float16,
    "fp16-spatial": lambda plain: by_onnx_in_float16(to_spatial(plain), "spatial"),
    "fp16-operator": lambda plain: by_onnx_in_float16(plain, opset=23),
    "bf16-tokens": by_torchscript_in_bfloat16,
    "bf16-spatial": lambda plain: by_torchscript_in_bfloat16(to_spatial(plain), "spatial"),
}


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(form, marks=() if form.endswith("tokens") else pytest.mark.slow)
        for form in REDUCED
    ],
)
def test_reduced_precision_parts_nowhere_or_at_the_block_that_is_wrong(form):
    precision, values = form[:4], REDUCED[form]
    right = list(values(to_plain(MODEL)))  # the last of which are the logits
    assert find_parting(compared(right, {"head": right[-1]}, precision), every=True) is None
    for wrong in ("blocks.4", "head"):
        model = trained()
        for parameter in model.get_submodule(wrong).parameters():
            parameter.data = parameter.data.flip(0)
        given = list(values(to_plain(model)))
        results = compared(given, {"head": given[-1]}, precision)
        assert find_parting(results, every=True).block == wrong
