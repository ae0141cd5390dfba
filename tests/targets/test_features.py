"""Artifacts that give features or feature maps compute timm's, in every form."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from every_format import EVERY_FORMAT
from interfaces import MEAN, PIXELS, SQUARE, STD
from networks import GOLDENS, golden, trained

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import ArtifactError, UsageError, VerificationError
from levit_deploy.passes.stage_maps import stage_maps
from levit_deploy.runtime.sessions import filled, onnx_session
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx_contract import broken_clauses
from levit_deploy.targets.target import ExportOptions
from levit_deploy.targets.torchscript_writer import deprecation_accepted

NAME = "timm-rectangular-64x96-single-head"
EXPECTED = np.load(GOLDENS / NAME / "features.npz")
MAPS = [EXPECTED[name] for name in ("stage1", "stage2", "stage3")]
SHAPES = [m.shape for m in MAPS]
_, IMAGES, _ = golden(NAME)
IMAGES = IMAGES.astype(np.float32)


@pytest.fixture(scope="module")
def timms():
    return read_checkpoint(golden(NAME)[0], image_size=(64, 96))


def side_by_side(maps):
    return np.concatenate([m.reshape(len(m), -1) for m in maps], axis=1)


def close(given, expected, within=1e-5):
    np.testing.assert_allclose(given, expected, rtol=0, atol=within * np.abs(expected).max())


FORMS = [
    ("onnx", "fp32", "spatial", 17, None),
    ("onnx", "fp32", "tokens", 17, 3),
    ("onnx", "fp32", "tokens", 23, None),
    pytest.param("onnx", "fp32", "spatial", 11, None, marks=pytest.mark.slow),
    ("onnx", "fp16", "spatial", 20, None),
    pytest.param("onnx", "fp16", "tokens", 23, None, marks=pytest.mark.slow),
    ("torchscript", "fp32", "tokens", None, None),
    pytest.param("torchscript", "fp32", "spatial", None, None, marks=pytest.mark.slow),
    ("torchscript", "bf16", "tokens", None, None),
    ("pt2", "fp32", "tokens", None, None),
    pytest.param("pt2", "fp32", "spatial", None, None, marks=pytest.mark.study),
    pytest.param("pt2", "bf16", "tokens", None, None, marks=pytest.mark.study),
    pytest.param("litert", "fp32", "tokens", None, 3, marks=pytest.mark.litert),
]


@pytest.mark.parametrize(("format", "precision", "layout", "opset", "batch"), FORMS)
@pytest.mark.parametrize("output", ["features", "feature-maps"])
def test_every_form_computes_timms(
    tmp_path, timms, output, format, precision, layout, opset, batch
):
    path = tmp_path / "artifact"
    options = ExportOptions(opset, batch, output=output)
    published = pipeline.export(
        timms, format, path, layout=layout, precision=precision, options=options
    )
    assert published.verification.head == "none"
    cases = [case.name for case in published.verification.cases]
    assert cases[0] == ("normal" if output == "features" else "normal, stage1")
    kinds = {name.partition(",")[0] for name in cases}
    assert kinds >= {"normal", "zeros", "constant", "pixels", "large", "tiny"}
    assert len(cases) == len(kinds) * (1 if output == "features" else 3)
    assert {case.decided for case in published.verification.cases} == {None}
    artifact = load_artifact(path)
    assert artifact.metadata["output"] == output
    expected = EXPECTED["pooled"] if output == "features" else side_by_side(MAPS)
    close(artifact.run(IMAGES), expected, {"fp32": 1e-5, "fp16": 2e-2, "bf16": 1e-1}[precision])
    if (output, precision) == ("feature-maps", "fp32"):  # as the export did
        assert pipeline.verify(timms, path).passed


def test_an_onnx_file_has_an_output_for_each_stage_by_name(tmp_path, timms):
    path = tmp_path / "maps.onnx"
    pipeline.export(timms, "onnx", path, options=ExportOptions(output="feature-maps"))
    session = onnx_session(path.read_bytes())
    outputs = session.get_outputs()
    assert [output.name for output in outputs] == ["stage1", "stage2", "stage3"]
    assert [tuple(output.shape) for output in outputs] == [("batch", *s[1:]) for s in SHAPES]
    for given, expected in zip(session.run(None, {"pixel_values": IMAGES}), MAPS, strict=True):
        close(given, expected)
    proto = onnx.load(path)
    assert not any(node.name.startswith(("head", "pool")) for node in proto.graph.node)


def test_a_torchscript_program_gives_a_tuple_of_maps_in_order(tmp_path, timms):
    path = tmp_path / "maps.pt"
    pipeline.export(timms, "torchscript", path, options=ExportOptions(output="feature-maps"))
    with deprecation_accepted():
        maps = torch.jit.load(path)(torch.from_numpy(IMAGES))
    assert isinstance(maps, tuple)
    for given, expected in zip(maps, MAPS, strict=True):
        assert given.is_contiguous()
        close(given.numpy(), expected)


def test_features_leave_no_head_in_the_graph(tmp_path, timms):
    for output in ("logits", "features"):
        options = ExportOptions(output=output)
        path = tmp_path / f"{output}.onnx"
        pipeline.export(timms, "onnx", path, options=options)
    graphs = [onnx.load(tmp_path / f"{name}.onnx").graph for name in ("logits", "features")]
    assert len(graphs[1].node) == len(graphs[0].node) - 1
    assert not any(tensor.name.startswith("head") for tensor in graphs[1].initializer)


@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_bytes_in_and_maps_out(tmp_path, square, format):
    options = ExportOptions(input="uint8", output="feature-maps")
    pipeline.export(square, format, tmp_path / "out", options=options)
    images = ((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2).copy()
    with torch.inference_mode():
        maps = stage_maps(trained(SQUARE)).double()(torch.from_numpy(images))
    artifact = load_artifact(tmp_path / "out")
    given = filled(artifact.run, artifact.batch_size)(PIXELS)
    close(given, side_by_side([m.numpy() for m in maps]))


def headless(folder, config=SQUARE):
    path = folder / "headless.pth"
    state = {k: t for k, t in trained(config).state_dict().items() if not k.startswith("head")}
    torch.save(state, path)
    return read_checkpoint(path)


def test_a_network_without_a_head_is_fused_and_exported_again(tmp_path):
    checkpoint = headless(tmp_path)
    fused = pipeline.fuse(checkpoint, tmp_path / "fused.safetensors")
    assert fused.verification.interface.output == "features"
    again = read_checkpoint(fused.path)
    assert (again.head, again.config) == ("none", checkpoint.config)
    images = IMAGES[:, :, :, :64].copy()
    with torch.inference_mode():
        expected = checkpoint.model(torch.from_numpy(images)).numpy()
        maps = stage_maps(checkpoint.model)(torch.from_numpy(images))
    close(load_artifact(fused.path).run(images), expected)
    for output, given in (
        ("features", expected),
        ("feature-maps", side_by_side([m.numpy() for m in maps])),
    ):
        path = tmp_path / f"{output}.onnx"
        pipeline.export(again, "onnx", path, options=ExportOptions(output=output))
        close(load_artifact(path).run(images), given)
        assert pipeline.verify(checkpoint, path).passed


def test_its_logits_are_refused(tmp_path):
    checkpoint = headless(tmp_path)
    for output in ("logits", "probabilities"):
        with pytest.raises(UsageError, match=f"no {output}. Give --output-type features"):
            pipeline.export(
                checkpoint, "onnx", tmp_path / "a.onnx", options=ExportOptions(output=output)
            )
    with pytest.raises(UsageError, match="does not have two heads"):
        pipeline.fuse(checkpoint, tmp_path / "a", head="class")
    whole = tmp_path / "whole.pth"
    torch.save(trained(SQUARE).state_dict(), whole)
    pipeline.export(read_checkpoint(whole), "onnx", tmp_path / "whole.onnx")
    with pytest.raises(ArtifactError, match=r"gives logits, and .* is a network without a head"):
        pipeline.verify(checkpoint, tmp_path / "whole.onnx")
    features = ExportOptions(output="features")
    pipeline.export(checkpoint, "onnx", tmp_path / "headless.onnx", options=features)
    # the trunk is the same, so this is proven against the network with heads, too
    assert pipeline.verify(read_checkpoint(whole), tmp_path / "headless.onnx").passed


def test_what_features_cannot_have_is_refused(tmp_path, checkpoint):
    options = ExportOptions(output="features")
    with pytest.raises(UsageError, match="--head class chooses between logits"):
        pipeline.export(checkpoint, "onnx", tmp_path / "a", head="class", options=options)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UsageError, match="int8 is judged by its answers"):
        pipeline.quantize(checkpoint, tmp_path / "a", tmp_path / "pictures", options=options)


def test_a_file_of_features_with_a_head_breaks_the_contract(tmp_path, timms):
    pipeline.export(timms, "onnx", tmp_path / "a", options=ExportOptions(output="features"))
    model = onnx.load(tmp_path / "a")
    interface = load_artifact(tmp_path / "a").interface
    assert broken_clauses(model, interface) == []
    model.graph.node[3].name = "head.gemm"
    assert broken_clauses(model, interface) == ["a head, and no logits"]


def test_maps_of_other_shapes_than_stated_are_not_run(tmp_path, timms):
    path = tmp_path / "a.onnx"
    pipeline.export(timms, "onnx", path, options=ExportOptions(output="feature-maps"))
    model = onnx.load(path)
    metadata = {entry.key: entry for entry in model.metadata_props}
    config = timms.config
    stages = (dataclasses.replace(config.stages[0], depth=2), *config.stages[1:])
    metadata["config"].value = config.replace(stages=stages).to_json()
    onnx.save(model, path)
    changed = pipeline.verify(timms, path)  # of the same shapes, and so of the same maps
    assert changed.failures == (f"comparison with the file exported again: {changed.graph}",)
    assert str(changed.graph) == "the config in its metadata has another stages"
    turned = config.replace(image_size=(96, 64))
    metadata["config"].value = turned.to_json()
    onnx.save(model, path)
    with pytest.raises((ArtifactError, VerificationError), match="maps of"):
        pipeline.verify(timms, path)
    metadata["config"].value = "{}"
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match="do not state their shapes"):
        load_artifact(path)


def test_the_bytes_are_the_same_every_time(tmp_path, timms):
    for name in ("a", "b"):
        options = ExportOptions(output="feature-maps")
        pipeline.export(timms, "torchscript", tmp_path / name, options=options)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
