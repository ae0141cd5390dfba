import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from networks import SMALL, trained
from onnx import numpy_helper

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import BackendError, VerificationError
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.fused import module_values
from levit_deploy.targets.onnx_load import onnx_values
from levit_deploy.targets.onnx_writer import to_onnx
from levit_deploy.targets.target import ExportOptions
from levit_deploy.targets.torchscript import torchscript_values
from levit_deploy.targets.torchscript_writer import deprecation_accepted, to_torchscript
from levit_deploy.verification import measure as verification
from levit_deploy.verification.inputs import standard_cases
from levit_deploy.verification.parting import Parting, compare_blocks, find_parting
from levit_deploy.verification.reference import BlockOutput, Reference

MODEL = trained()
IMAGES = standard_cases(SMALL, seed=0)[0].draw(3)
BLOCKS = Reference(MODEL).blocks(IMAGES)
NAMES = [block.name for block in BLOCKS]
PROVENANCE = Provenance(checkpoint_sha256="", config=SMALL, head="mean", layout="tokens")


def head(plain, images=IMAGES):
    with torch.inference_mode():
        return {"head": plain(torch.from_numpy(images)).numpy()}


def floats(values):
    return [value.float().numpy() for value in values if value.is_floating_point()]


def by_onnx(plain, images=IMAGES, **options):
    return onnx_values(to_onnx(plain, PROVENANCE, **options).SerializeToString(), images)


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
    parting = find_parting(compare_blocks(BLOCKS, values(wrong), head(wrong), len(IMAGES)))
    before = NAMES.index(block) - 1
    assert parting.block == block
    assert parting.after == (NAMES[before] if before >= 0 else None)
    assert parting.rmse > parting.allowed > 0


@pytest.mark.parametrize("values", FORMS.values(), ids=FORMS)
def test_a_right_artifact_parts_nowhere(values):
    right = to_plain(MODEL)
    assert find_parting(compare_blocks(BLOCKS, values(right), head(right), len(IMAGES))) is None


def test_an_error_behind_the_head_is_the_heads():
    right = to_plain(MODEL)
    wrong = head(right)["head"] * np.float32(1.001)
    parting = find_parting(compare_blocks(BLOCKS, by_onnx(right), {"head": wrong}, len(IMAGES)))
    assert (parting.block, parting.after) == ("head", NAMES[-2])
    assert parting.rmse > parting.allowed


@pytest.mark.parametrize("opset", [17, 23])
def test_any_operator_set_and_a_fixed_batch(opset):
    filled = IMAGES[np.arange(8) % 3]
    wrong = wrong_from("blocks.2")
    values = list(by_onnx(wrong, filled, opset=opset, batch_size=8))
    assert find_parting(compare_blocks(BLOCKS, values, head(wrong, filled), 8)).block == "blocks.2"
    # the same values, were they taken for three images
    parting = find_parting(compare_blocks(BLOCKS, values, head(wrong, filled), 3))
    assert (parting.after, parting.rmse) == (None, None)
    assert "and has no value of that block's size" in str(parting)


def test_nan_is_found_where_it_begins():
    plain = to_plain(MODEL)
    plain.blocks[1].m[0].bias.data[0] = np.nan
    parting = find_parting(compare_blocks(BLOCKS, by_onnx(plain), head(plain), 3))
    assert parting.block == "blocks.1"
    assert parting.rmse == np.inf
    assert "first at blocks.1, with NaN or infinity." in str(parting)


def test_in_words():
    assert str(Parting("stages.0.blocks.0.mlp", "blocks.0", 2e-3, 1e-6)) == (
        "It agrees up to blocks.0 and parts from the original first at stages.0.blocks.0.mlp, by "
        "an RMSE of 2.00e-03, with 1.00e-06 allowed."
    )
    words = str(Parting("patch_embed.0", None, 1.0, 1e-6))
    assert words.startswith("It parts from the original first at patch_embed.0, by an RMSE")


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
    def cannot_tell(*_):
        raise BackendError("the values cannot be had")

    pipeline.export(checkpoint, "onnx", tmp_path / "a.onnx")
    corrupt(tmp_path / "a.onnx", "blocks.3.m.0.bias")
    monkeypatch.setattr(verification, "compare_blocks", cannot_tell)
    found = pipeline.verify(checkpoint, tmp_path / "a.onnx")
    with pytest.raises(VerificationError, match="No block can be named as the first to part"):
        found.raise_if_failed()


def test_a_proof_that_holds_looks_no_further_unless_it_is_asked_to(tmp_path, checkpoint):
    proof = pipeline.export(checkpoint, "onnx", tmp_path / "a", layout="tokens").verification
    assert (proof.parting, proof.blocks) == (None, ())
    names = {"blocks.4": "theirs.blocks.4"}
    named = replace(checkpoint, block_names=names)
    proof = pipeline.verify(named, tmp_path / "a", blocks=True)
    assert proof.parting is None
    assert [block.name for block in proof.blocks] == [names.get(name, name) for name in NAMES]
    # the reference's own distance from what this export computes, block by block
    images = standard_cases(SMALL, seed=0)[0].draw(4)
    values = [value for value in by_onnx(to_plain(MODEL), images) if len(value) in (4, 24 * 4)]
    for found, block in list(zip(proof.blocks, Reference(MODEL).blocks(images), strict=True))[4:8]:
        errors = [
            v.reshape(block.float64.shape) - block.float64
            for v in values
            if v.size == block.float64.size
        ]
        assert found.rmse == pytest.approx(min(np.sqrt((e**2).mean()) for e in errors))
        assert found.agrees
        assert 0 < found.rmse <= found.allowed


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_fixed_batch_is_looked_into_as_well(tmp_path, checkpoint, batch_size):
    options = ExportOptions(batch_size=batch_size)
    pipeline.export(checkpoint, "onnx", tmp_path / "a", options=options)
    proof = pipeline.verify(checkpoint, tmp_path / "a", blocks=True)
    assert len(proof.blocks) == len(NAMES)
    assert all(block.agrees and block.rmse > 0 for block in proof.blocks)


def test_an_exact_value_may_be_one_step_of_the_precision_off():
    exact = np.array([[1.0, 0.5, 0.25]])
    block = BlockOutput("head", exact, exact.astype(np.float32))
    value = exact.astype(np.float32) + np.float32(2.0**-10)
    assert find_parting(compare_blocks([block], [], {"head": value}, 1, "fp16")) is None
    assert find_parting(compare_blocks([block], [], {"head": value}, 1, "fp32")).block == "head"


def by_onnx_in_float16(plain, layout="tokens", opset=17):
    provenance = Provenance(
        checkpoint_sha256="", config=SMALL, head="mean", layout=layout, precision="fp16"
    )
    return onnx_values(to_onnx(plain, provenance, opset=opset).SerializeToString(), IMAGES)


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
    blocks = Reference(MODEL, precision).blocks(IMAGES)
    right = list(values(to_plain(MODEL)))  # the last of which are the logits
    compared = compare_blocks(blocks, right, {"head": right[-1]}, len(IMAGES), precision)
    assert find_parting(compared) is None
    for wrong in ("blocks.4", "head"):
        model = trained()
        for parameter in model.get_submodule(wrong).parameters():
            parameter.data = parameter.data.flip(0)
        given = list(values(to_plain(model)))
        compared = compare_blocks(blocks, given, {"head": given[-1]}, len(IMAGES), precision)
        assert find_parting(compared).block == wrong
