"""From a file to a proven artifact, and sabotage on the way."""

import io
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import scans
import torch
from networks import SMALL, golden, images, trained
from onnx import numpy_helper
from rich.console import Console
from torch import nn

import levit_deploy
from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import (
    ArtifactError,
    CheckpointError,
    InputError,
    UsageError,
    VerificationError,
)
from levit_deploy.model import AttentionBias
from levit_deploy.passes import to_plain
from levit_deploy.report import print_published, published_data, to_json
from levit_deploy.runtime.artifact import load_artifact
from levit_deploy.targets import plain as forms
from levit_deploy.targets.target import EXPORTERS, ExportOptions
from levit_deploy.verification import compare
from levit_deploy.verification import prove as proving

# a process that runs TorchScript imports torch first, for seconds
FORMATS = [
    pytest.param(name, marks=pytest.mark.slow if name == "torchscript" else ())
    for name in EXPORTERS
]


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "ckpt.pth"
    torch.save({"model": trained().state_dict()}, path)
    return read_checkpoint(path)


@pytest.mark.parametrize("layout", ["tokens", "spatial"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["official", "official-training-run"])
def test_goldens_from_file_to_artifact(tmp_path, name, format, layout):
    path, x, expected = golden(name)
    output = tmp_path / "artifact"
    published = pipeline.export(read_checkpoint(path), format, output, layout=layout)
    assert published.verification.passed
    assert published.layout == layout
    logits = load_artifact(output).run(x)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["official", "official-training-run"])
def test_goldens_from_file_to_fused_file_to_artifact(tmp_path, name):
    path, x, expected = golden(name)
    pipeline.fuse(read_checkpoint(path), tmp_path / "fused.safetensors")
    fused = read_checkpoint(tmp_path / "fused.safetensors")
    assert fused.family == "levit-deploy fused"
    pipeline.export(fused, "onnx", tmp_path / "out.onnx")
    np.testing.assert_allclose(
        load_artifact(tmp_path / "out.onnx").run(x), expected, rtol=0, atol=2e-6
    )
    # and the file made from the fused one is held to the original, too
    assert pipeline.verify(read_checkpoint(path), tmp_path / "out.onnx").passed


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("head", "which"), [("class", 0), ("distill", 1)])
def test_one_head_alone(tmp_path, checkpoint, format, head, which):
    output = tmp_path / "artifact"
    pipeline.export(checkpoint, format, output, head=head)
    model = trained()
    features = model.forward_features(images())
    expected = (model.head, model.head_dist)[which](features).detach().numpy()
    found = load_artifact(output).run(images().numpy())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_artifact_says_where_it_comes_from(tmp_path, checkpoint):
    for format in EXPORTERS:
        pipeline.export(checkpoint, format, tmp_path / format, layout="tokens")
        metadata = load_artifact(tmp_path / format).metadata
        assert metadata["checkpoint_sha256"] == checkpoint.sha256
        assert LeViTConfig.from_json(metadata["config"]) == SMALL
        assert (metadata["head"], metadata["layout"]) == ("mean", "tokens")
        assert metadata["tool"].startswith("levit-deploy ")


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_input_gives_the_same_bytes(tmp_path, checkpoint, format):
    one = pipeline.export(checkpoint, format, tmp_path / "one")
    two = pipeline.export(checkpoint, format, tmp_path / "two")
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.verification.sha256 == two.verification.sha256


def test_a_fixed_batch_is_proven_at_that_batch(tmp_path, checkpoint):
    output = tmp_path / "out.onnx"
    pipeline.export(checkpoint, "onnx", output, options=ExportOptions(batch_size=5))
    artifact = load_artifact(output)
    assert artifact.batch_size == 5
    assert artifact.run(images(n=5).numpy()).shape == (5, 7)


def test_torchscript_has_no_opset_to_choose(tmp_path, checkpoint):
    with pytest.raises(UsageError, match="--opset"):
        pipeline.export(
            checkpoint, "torchscript", tmp_path / "out.pt", options=ExportOptions(opset=17)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


def test_the_public_names_do_the_job(tmp_path, checkpoint):
    loaded = levit_deploy.load(str(checkpoint.path))
    published = levit_deploy.export(loaded, "onnx", str(tmp_path / "out.onnx"))
    levit_deploy.fuse(loaded, tmp_path / "out.safetensors")
    assert levit_deploy.verify(loaded, published.path).passed
    fixed = levit_deploy.ExportOptions(batch_size=2)
    levit_deploy.export(loaded, "onnx", tmp_path / "fixed.onnx", options=fixed)
    with pytest.raises(levit_deploy.LevitDeployError):
        levit_deploy.load(tmp_path / "nothing.pth")


def test_a_path_stands_for_its_checkpoint(tmp_path, checkpoint):
    path, output = str(checkpoint.path), tmp_path / "out.onnx"
    assert levit_deploy.export(path, "onnx", output).verification.passed
    assert levit_deploy.verify(checkpoint.path, output).passed
    levit_deploy.fuse(path, tmp_path / "out.safetensors")
    with pytest.raises(InputError, match="scans is not a folder"):
        levit_deploy.quantize(path, tmp_path / "int8.onnx", "scans")
    with pytest.raises(UsageError, match="A LeViT is not a checkpoint"):
        levit_deploy.fuse(checkpoint.model, tmp_path / "other.safetensors")


def test_a_proof_takes_pictures_as_the_command_line_does(tmp_path, checkpoint):
    folder, output = scans.save_scans(tmp_path / "scans", 3), tmp_path / "out.onnx"
    for found in (
        pipeline.export(checkpoint, "onnx", output, images=str(folder)).verification,
        pipeline.fuse(checkpoint, tmp_path / "out.safetensors", images=folder).verification,
        pipeline.verify(checkpoint, output, images=folder),
    ):
        assert [(case.name, case.images) for case in found.cases][-1] == ("pictures", 3)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        pipeline.verify(checkpoint, output, images=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "wrong", [{"format": "tflite"}, {"layout": "spacial"}, {"head": "both"}, {"precision": "fp8"}]
)
def test_choices_that_do_not_exist_are_usage_errors(tmp_path, checkpoint, wrong):
    arguments = {"format": "onnx", "output": tmp_path / "out", **wrong}
    with pytest.raises(UsageError, match=next(iter(wrong.values()))):
        pipeline.export(checkpoint, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


def test_the_first_opset_is_not_the_default(tmp_path, checkpoint):
    with pytest.raises(UsageError, match="--opset 0"):
        pipeline.export(checkpoint, "onnx", tmp_path / "out", options=ExportOptions(opset=0))


# --- precision ------------------------------------------------------------------------------------

REDUCED = [
    pytest.param("onnx", "fp16"),
    pytest.param("torchscript", "bf16", marks=pytest.mark.slow),
]
OTHER = pytest.param("vit-pytorch", marks=pytest.mark.slow)  # it has BatchNorm elsewhere


@pytest.mark.parametrize(("format", "precision"), REDUCED)
@pytest.mark.parametrize("name", ["official", OTHER])
def test_goldens_in_reduced_precision(tmp_path, name, format, precision):
    path, x, expected = golden(name)
    checkpoint, output = read_checkpoint(path), tmp_path / "artifact"
    published = pipeline.export(checkpoint, format, output, precision=precision)
    assert published.verification.precision == precision
    assert load_artifact(output).metadata["precision"] == precision
    assert pipeline.verify(checkpoint, output).precision == precision
    error = np.abs(load_artifact(output).run(x) - expected).max()
    assert 1e-5 * np.abs(expected).max() < error < 0.1 * np.abs(expected).max()
    # rounded once more than it says, it is no float32 artifact
    as_float32 = replace(load_artifact(output), metadata={"precision": "fp32"})
    assert not proving.prove(checkpoint, as_float32, ()).passed


@pytest.mark.parametrize(
    ("layout", "options"),
    [("tokens", ExportOptions(opset=23)), ("spatial", ExportOptions(batch_size=3))],
)
def test_float16_with_other_options(tmp_path, checkpoint, layout, options):
    output = tmp_path / "out.onnx"
    export = {"precision": "fp16", "layout": layout, "options": options}
    published = pipeline.export(checkpoint, "onnx", output, **export)
    assert published.verification.passed
    again = pipeline.export(checkpoint, "onnx", tmp_path / "again.onnx", **export)
    assert output.read_bytes() == again.path.read_bytes()


@pytest.mark.parametrize(
    ("format", "precision", "instead"),
    [("torchscript", "fp16", "--format onnx"), ("onnx", "bf16", "--format torchscript")],
)
def test_a_precision_that_the_format_has_not_is_a_usage_error(
    tmp_path, checkpoint, format, precision, instead
):
    with pytest.raises(UsageError, match=f"--precision {precision} is not for .*{instead}"):
        pipeline.export(checkpoint, format, tmp_path / "out", precision=precision)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


def test_a_drop_is_for_int8(tmp_path, checkpoint):
    published = pipeline.export(checkpoint, "onnx", tmp_path / "out.onnx")
    with pytest.raises(UsageError, match=r"--max-drop is for int8, and .*out\.onnx"):
        pipeline.verify(checkpoint, published.path, max_drop=3)


def edited(path, edit):
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)


def claim(precision):
    def edit(model):
        next(p for p in model.metadata_props if p.key == "precision").value = precision

    return edit


def test_an_artifact_is_held_to_the_precision_it_claims(tmp_path, checkpoint):
    output = tmp_path / "out.onnx"
    pipeline.export(checkpoint, "onnx", output, precision="fp16")
    edited(output, claim("fp32"))
    found = pipeline.verify(checkpoint, output)
    assert not found.passed
    assert found.precision == "fp32"
    edited(output, claim("fp12"))
    with pytest.raises(ArtifactError, match="'fp12' is not one of"):
        pipeline.verify(checkpoint, output)


def test_a_number_beyond_float16_is_found_though_this_processor_may_hide_it(tmp_path, checkpoint):
    def overflow(model):
        add = next(node for node in model.graph.node if node.name == "blocks.2.add")
        last, at = add.output[0], list(model.graph.node).index(add)
        add.output[0] = "blocks.2.quiet"
        for name, source, factor in (
            ("blocks.2.loud", "blocks.2.quiet", 2.0**15),
            (last, "blocks.2.loud", 2.0**-15),
        ):
            at += 1
            weight = np.array(factor, np.float16)
            model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}.factor"))
            node = onnx.helper.make_node("Mul", [source, f"{name}.factor"], [name], f"{name}.mul")
            model.graph.node.insert(at, node)

    output = tmp_path / "out.onnx"
    pipeline.export(checkpoint, "onnx", output, precision="fp16", layout="tokens")
    edited(output, overflow)
    found = pipeline.verify(checkpoint, output)
    assert not found.passed
    assert all("infinit" in " ".join(case.failures) for case in found.cases[:1])


@pytest.mark.slow
@pytest.mark.parametrize(("format", "precision"), REDUCED)
def test_a_forgotten_head_is_refused_in_any_precision(
    tmp_path, checkpoint, monkeypatch, format, precision
):
    monkeypatch.setattr(compare, "TWINS", (0,))  # the first look will do
    pipeline.export(checkpoint, format, tmp_path / "artifact", precision=precision, head="class")
    claimed = load_artifact(tmp_path / "artifact")
    found = proving.prove(checkpoint, replace(claimed, metadata={"precision": precision}), ())
    assert not found.passed
    assert "head" in found.parting.block


def test_where_the_original_errs_as_much_as_images_differ_nothing_is_proven(tmp_path, checkpoint):
    model = trained()
    for head in (model.head, model.head_dist):
        head.l.weight.data *= 1e-6  # the biases remain, which are the same for every image
    alike = replace(checkpoint, model=model)
    assert pipeline.export(alike, "onnx", tmp_path / "fp32.onnx").verification.passed
    with pytest.raises(CheckpointError, match=r"In float16 .* the proof proves nothing.*--images"):
        pipeline.export(alike, "onnx", tmp_path / "fp16.onnx", precision="fp16")
    assert not (tmp_path / "fp16.onnx").exists()


def test_a_network_whose_logits_are_all_zero_is_proven_and_no_other_passes_for_it(
    tmp_path, checkpoint
):
    model = trained()
    for head in (model.head, model.head_dist):
        head.l.weight.data.zero_()
        head.l.bias.data.zero_()
    silent = replace(checkpoint, model=model)
    published = pipeline.export(silent, "onnx", tmp_path / "silent.onnx")
    out = io.StringIO()
    print_published(published_data(published), Console(file=out))
    assert "FAILED" not in out.getvalue()
    pipeline.export(checkpoint, "onnx", tmp_path / "other.onnx")
    assert not pipeline.verify(silent, tmp_path / "other.onnx").passed


def test_a_network_beyond_float16_is_refused_before_anything_is_published(tmp_path, checkpoint):
    model = trained()
    model.blocks[0].m.qkv.bn.weight.data *= 3000
    with pytest.raises(CheckpointError, match=r"On normal inputs .* infinity in float16.*fp32"):
        pipeline.export(
            replace(checkpoint, model=model), "onnx", tmp_path / "out.onnx", precision="fp16"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


# --- sabotage: what the proof must refuse ---------------------------------------------------------


def wrong_eps(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 1e-3


def shifted_bias_table(model):
    for module in model.modules():
        if isinstance(module, AttentionBias):
            module.biases.data = module.biases.data.roll(1, dims=1)


def bias_table_of_another_network(model):
    biases = [m for m in trained(seed=5).modules() if isinstance(m, AttentionBias)]
    for module, stale in zip(
        [m for m in model.modules() if isinstance(m, AttentionBias)], biases, strict=True
    ):
        module.biases.data = stale.biases.data


def dropped_head(model):
    model.head_dist = None


def summed_heads(model):
    for head in (model.head, model.head_dist):
        head.l.weight.data *= 2
        head.l.bias.data *= 2


def forgotten_scale(model):
    for module in model.modules():
        if hasattr(module, "scale"):
            module.scale.factor = 1.0


def another_activation(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Hardswish):
                setattr(module, name, nn.SiLU())


def one_weight_off_by_one_percent(model):
    weight = model.blocks[0].m.qkv.c.weight.data
    index = weight.abs().flatten().argmax()
    weight.view(-1)[index] *= 1.01


def one_bias_off(model):
    model.blocks[3].m[0].bn.bias.data[0] += 1e-3


def a_batchnorm_left_out(model):
    bn = model.blocks[1].m[0].bn
    bn.running_mean.zero_()


def a_transposed_weight(model):
    square = model.blocks[0].m.proj[1]
    n = min(square.c.weight.shape)
    square.c.weight.data[:n, :n] = square.c.weight.data[:n, :n].T.clone()


SABOTAGE = [
    wrong_eps,
    shifted_bias_table,
    bias_table_of_another_network,
    dropped_head,
    summed_heads,
    forgotten_scale,
    another_activation,
    one_weight_off_by_one_percent,
    one_bias_off,
    a_batchnorm_left_out,
    a_transposed_weight,
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "sabotage"),
    [*(("onnx", s) for s in SABOTAGE), *(("torchscript", s) for s in SABOTAGE[::4])],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_sabotage_before_the_export_is_refused(tmp_path, checkpoint, sabotage, format):
    sabotaged = trained()
    sabotage(sabotaged)
    output = tmp_path / "artifact"
    form = forms.plain_form(replace(checkpoint, model=sabotaged), "mean", "tokens")
    provenance = forms.provenance_of(checkpoint, "mean", "tokens")
    output.write_bytes(EXPORTERS[format].serialize(form, provenance, ExportOptions()))
    verification = pipeline.verify(checkpoint, output)
    assert not verification.passed
    with pytest.raises(VerificationError, match="does not compute what the checkpoint computes"):
        verification.raise_if_failed()


def transposed_bias(model):
    tensor = next(t for t in model.graph.initializer if t.name.endswith("m.attention_bias"))
    table = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(table.swapaxes(1, 2).copy()[:, ::-1], tensor.name))


def one_bit_of_one_weight(model):
    tensor = next(t for t in model.graph.initializer if t.name == "head.weight")
    weights = numpy_helper.to_array(tensor).copy()
    index = np.unravel_index(np.abs(weights).argmax(), weights.shape)
    weights.view(np.uint32)[index] ^= 1 << 12  # a 2000th of the weight
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))


def softmax_over_the_wrong_axis(model):
    node = next(n for n in model.graph.node if n.op_type == "Softmax")
    node.attribute[0].i = -2


def hardswish_as_hardsigmoid(model):
    next(n for n in model.graph.node if n.op_type == "HardSwish").op_type = "HardSigmoid"


@pytest.mark.parametrize(
    "sabotage",
    [
        transposed_bias,
        one_bit_of_one_weight,
        softmax_over_the_wrong_axis,
        hardswish_as_hardsigmoid,
    ],
    ids=lambda function: function.__name__,
)
def test_sabotage_of_the_written_file_is_refused(tmp_path, checkpoint, sabotage):
    output = tmp_path / "out.onnx"
    pipeline.export(checkpoint, "onnx", output)
    model = onnx.load(output)
    sabotage(model)
    onnx.save(model, output)
    assert not pipeline.verify(checkpoint, output).passed


def test_a_failed_proof_publishes_nothing(tmp_path, checkpoint, monkeypatch):
    # a bug as others have it: the distillation head is forgotten
    monkeypatch.setattr(forms, "to_plain", lambda model, _head: to_plain(model, "class"))
    output = tmp_path / "out.onnx"
    output.write_bytes(b"old")
    for format in EXPORTERS:
        with pytest.raises(VerificationError):
            pipeline.export(checkpoint, format, output, force=True)
        assert output.read_bytes() == b"old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt.pth", "out.onnx"]


def test_the_evidence_is_plain_data(tmp_path, checkpoint):
    published = pipeline.export(checkpoint, "onnx", tmp_path / "out.onnx")
    data = json.loads(to_json(published_data(published)))
    assert data["verification"]["passed"] is True
    kinds = {case["name"] for case in data["verification"]["cases"]}
    assert kinds == {"normal", "zeros", "constant", "pixels", "large", "tiny"}
    assert {batch["size"] for batch in data["verification"]["batches"]} == {2, 3, 4, 5, 7, 8, 16}
    assert data["facts"]["opset"] == 17


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("change", [{"num_classes": 8}, {"image_size": (96, 64)}])
def test_an_artifact_of_another_network_fails_in_words(tmp_path, checkpoint, format, change):
    config = SMALL.replace(**change)
    other = replace(checkpoint, config=config, model=trained(config))
    pipeline.export(other, format, tmp_path / "artifact")
    with pytest.raises(VerificationError, match="another network"):
        pipeline.verify(checkpoint, tmp_path / "artifact")
