"""Artifacts that take bytes or give probabilities: what they compute, and what is refused."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from networks import SMALL, float64_logits, trained
from onnx import numpy_helper
from PIL import Image

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import ArtifactError, CheckpointError, UsageError, VerificationError
from levit_deploy.interface import Interface
from levit_deploy.runtime.artifact import load_artifact
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.plain import provenance_of
from levit_deploy.targets.target import ExportOptions
from levit_deploy.verification import compare
from levit_deploy.verification import prove as proving
from levit_deploy.verification.inputs import image_case, picture_case

SQUARE = SMALL.replace(image_size=(64, 64))  # rows and columns can be mistaken for each other
MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
PIXELS = np.random.default_rng(3).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
PIXELS[1] = 255  # borders differ most where the picture is white
BOTH = ExportOptions(input="uint8", output="probabilities")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("interface") / "ckpt.pth"
    torch.save({"model": trained(SQUARE).state_dict()}, path)
    return read_checkpoint(path, preprocessing="mean 0.4 0.5 0.6, std 0.2 0.25 0.3")


@pytest.fixture(scope="module")
def exported(checkpoint):
    """An artifact that takes bytes and gives probabilities."""
    path = checkpoint.path.with_suffix(".onnx")
    pipeline.export(checkpoint, "onnx", path, options=BOTH)
    return path


def expected_logits():
    images = torch.from_numpy(((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2).copy())
    return float64_logits(trained(SQUARE), images)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "precision", "layout", "opset", "within"),
    [
        ("onnx", "fp32", "spatial", 17, 1e-5),
        ("onnx", "fp32", "tokens", 23, 1e-5),
        ("onnx", "fp16", "tokens", 20, 2e-2),
        pytest.param("torchscript", "fp32", "tokens", None, 1e-5, marks=SLOW),
        pytest.param("torchscript", "bf16", "spatial", None, 2e-1, marks=SLOW),
    ],
)
def test_bytes_in_and_probabilities_out(
    tmp_path, checkpoint, format, precision, layout, opset, within
):
    output = tmp_path / "artifact"
    for gives, expected in (
        ("logits", expected_logits()),
        ("probabilities", softmax(expected_logits())),
    ):
        options = ExportOptions(opset, None, "uint8", gives)
        choices = {"layout": layout, "precision": precision, "options": options, "force": True}
        published = pipeline.export(checkpoint, format, output, **choices)
        assert published.verification.interface == Interface("uint8", gives)
        artifact = load_artifact(output)
        assert (artifact.metadata["input"], artifact.metadata["output"]) == ("uint8", gives)
        assert artifact.image_shape == (64, 64, 3)
        np.testing.assert_allclose(artifact.run(PIXELS), expected, rtol=0, atol=within)


def test_one_end_alone_and_a_fixed_batch(tmp_path, checkpoint):
    options = ExportOptions(batch_size=3, output="probabilities")
    pipeline.export(checkpoint, "onnx", tmp_path / "out.onnx", options=options)
    artifact = load_artifact(tmp_path / "out.onnx")
    assert artifact.interface == Interface("float32", "probabilities")
    images = ((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    expected = softmax(expected_logits())
    np.testing.assert_allclose(artifact.run(images.copy()), expected, rtol=0, atol=1e-5)


def test_the_same_bytes_every_time(tmp_path, checkpoint, exported):
    again = pipeline.export(checkpoint, "onnx", tmp_path / "again.onnx", options=BOTH)
    assert again.path.read_bytes() == exported.read_bytes()
    assert pipeline.verify(checkpoint, exported).passed


# --- what is refused ------------------------------------------------------------------------------


def constant(name, change):
    """An edit of one constant of the graph."""

    def edit(model):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor)
        changed = change(values).astype(values.dtype)
        tensor.CopyFrom(numpy_helper.from_array(changed, name))

    return edit


def attribute(name, values):
    def edit(model):
        node = next(n for n in model.graph.node if n.name == name)
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(*item) for item in values.items())

    return edit


def fold_the_mean_into_the_first_convolution(model):
    """Exact but for the borders, where the convolution pads what it is given with zeros."""
    constant("pixels.mean", np.zeros_like)(model)
    weight = next(t for t in model.graph.initializer if t.name == "patch_embed.0.weight")
    shift = (numpy_helper.to_array(weight).sum((2, 3)) * (MEAN / STD)).sum(1)
    constant("patch_embed.0.bias", lambda bias: bias - shift)(model)


def twice(model):
    """A softmax of the softmax."""
    last = model.graph.node[-1]
    last.output[0] = "head.once"
    again = onnx.helper.make_node("Softmax", ["head.once"], ["probabilities"], axis=1)
    model.graph.node.append(again)


MISTAKES = {
    "mean": constant("pixels.mean", lambda mean: mean + 255 * 1e-4),
    "std": constant("pixels.factor", lambda factor: factor * 1.0002),
    "no std": constant("pixels.factor", lambda factor: np.ones_like(factor) / 255),
    "channels in the other order": constant("pixels.mean", lambda mean: mean[::-1]),
    "rows for columns": attribute("pixels.channels_first", {"perm": [0, 3, 2, 1]}),
    "folded, wrong at the borders": fold_the_mean_into_the_first_convolution,
    "softmax over the batch": attribute("probabilities", {"axis": 0}),
    "softmax twice": twice,
    "one logit": constant("head.bias", lambda b: b - 1e-4 * (b == b.min())),
}


def test_only_the_borders_differ_where_the_mean_is_folded(exported):
    """Or the sabotage would be another, and easier to see."""
    found = []
    for edit in (lambda _model: None, fold_the_mean_into_the_first_convolution):
        model = onnx.load(exported)
        edit(model)
        model.graph.output.append(onnx.ValueInfoProto(name="patch_embed.0.conv"))
        session = onnx_session(model.SerializeToString())
        found.append(session.run(["patch_embed.0.conv"], {"pixels": PIXELS})[0])
    difference = np.abs(found[0] - found[1])
    assert difference[:, :, 1:, 1:].max() < 1e-5
    assert difference[:, :, 0].max() > 0.01


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_at_either_end_is_refused(tmp_path, checkpoint, exported, monkeypatch, mistake):
    monkeypatch.setattr(compare, "TWINS", (0,))  # the first look will do
    model = onnx.load(exported)
    MISTAKES[mistake](model)
    path = tmp_path / "wrong.onnx"
    onnx.save(model, path)
    found = proving.prove(checkpoint, load_artifact(path), ())
    assert not found.passed
    behind = ("softmax", "one logit")
    wrong = "head and head_dist" if mistake.startswith(behind) else "pixel_values"
    assert found.parting.block == wrong


def test_probabilities_that_say_nothing_of_the_network_prove_nothing(tmp_path, checkpoint):
    """All but one are below what float32 can hold, whatever the image: any network would do."""
    model = trained(SQUARE)
    for head in (model.head, model.head_dist):
        head.l.bias.data[0] += 1e3
    certain = dataclasses.replace(checkpoint, model=model)
    assert pipeline.export(certain, "onnx", tmp_path / "logits.onnx").verification.passed
    options = ExportOptions(output="probabilities")
    remedy = r"the proof proves nothing.*without --output-type probabilities"
    with pytest.raises(CheckpointError, match=remedy):
        pipeline.export(certain, "onnx", tmp_path / "probabilities.onnx", options=options)
    assert not (tmp_path / "probabilities.onnx").exists()


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_softmax_over_the_batch_is_not_published(tmp_path, checkpoint, monkeypatch, batch_size):
    from levit_deploy.targets import onnx_writer as exporter

    def over_the_batch(g, logits):
        return g.op("Softmax", [logits], "probabilities", [*logits.shape], axis=0)

    monkeypatch.setattr(exporter, "probabilities", over_the_batch)
    options = dataclasses.replace(BOTH, batch_size=batch_size)
    with pytest.raises(VerificationError, match="parts from the original first at head"):
        pipeline.export(checkpoint, "onnx", tmp_path / "out.onnx", options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["offset", "factor"])
def test_torchscript_with_a_mistake_is_not_published(tmp_path, checkpoint, monkeypatch, wrong):
    from levit_deploy.targets import torchscript

    right = torchscript.channel_statistics

    def channel_statistics(*arguments):
        mean, std = right(*arguments)
        return (mean[::-1].copy(), std) if wrong == "offset" else (mean, std * 1.001)

    monkeypatch.setattr(torchscript, "channel_statistics", channel_statistics)
    with pytest.raises(VerificationError, match="first at pixel_values"):
        pipeline.export(checkpoint, "torchscript", tmp_path / "out.pt", options=BOTH)
    assert list(tmp_path.iterdir()) == []


def test_another_normalisation_than_the_checkpoints_is_named(checkpoint, exported):
    other = read_checkpoint(checkpoint.path)  # as for ImageNet
    with pytest.raises(VerificationError, match=r"give --preprocessing \"crop 0.875, bicubic, mea"):
        pipeline.verify(other, exported)


@pytest.fixture(scope="module")
def floats(checkpoint):
    """An artifact that leaves pictures to others, of a checkpoint that names its classes."""
    path = checkpoint.path.with_suffix(".floats.onnx")
    stated = dataclasses.replace(checkpoint, labels=tuple("abcdefg"), problem_type="regression")
    pipeline.export(stated, "onnx", path)
    return stated, load_artifact(path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("labels", '["a", "b", "d", "c", "e", "f", "g"]', "class 2 'd', .* calls 'c'.*--labels"),
        ("labels", '["a", "b", "c", "d", "e", "f"]', "class 6 '', which the checkpoint calls 'g'"),
        ("crop_fraction", 0.9, 'by crop 0.9, .* is crop 0.875, .*--preprocessing "crop 0.9, bic'),
        ("truncated", True, "by crop 0.875 truncated, "),
        ("interpolation", "box", "by crop 0.875, box, .* is crop 0.875, bicubic"),
        ("std", [0.2, 0.25, 0.31], "std 0.2 0.25 0.31, .* std 0.2 0.25 0.3 "),
        ("unsupported", "the moon is full", "by the moon is full, .* is crop 0.875"),
        ("problem_type", "single_label_classification", "single_label_cl.* are for regression"),
    ],
)
def test_another_use_than_the_checkpoint_states_is_no_proof(floats, key, value, expected):
    stated, artifact = floats
    change = {key: value}
    if key not in artifact.metadata:
        fields = json.loads(artifact.metadata["preprocessing"]) | change
        change = {"preprocessing": json.dumps(fields)}
    other = dataclasses.replace(artifact, metadata=artifact.metadata | change)
    with pytest.raises(VerificationError, match=expected):
        proving.prove(stated, other, ())


@pytest.mark.parametrize("damage", [{"assumed": "{"}, {"config": "[]"}, {"preprocessing": "?"}])
def test_a_use_that_cannot_be_read_is_no_proof(floats, damage):
    """Others may read what we cannot: labels, one key of many."""
    stated, artifact = floats
    other = dataclasses.replace(artifact, metadata=artifact.metadata | damage)
    with pytest.raises(ArtifactError, match="cannot be read of where it comes from"):
        proving.prove(stated, other, ())


def test_what_the_checkpoint_does_not_state_is_not_compared(checkpoint, floats):
    _, artifact = floats
    own = dataclasses.replace(checkpoint.preprocessing, mean=(0.1,), assumed=True)
    silent = dataclasses.replace(checkpoint, preprocessing=own)
    assert proving.prove(silent, artifact, ()).passed


def test_the_same_use_may_be_spelt_otherwise_or_be_left_unsaid(floats):
    stated, artifact = floats
    grey = dataclasses.replace(stated.preprocessing, mean=(0.5,), std=(0.25,) * 3)
    spelt = dataclasses.replace(grey, mean=(0.5,) * 3, std=(0.25,), assumed=True)
    change = {"preprocessing": spelt.to_json(), "labels": "[]"}
    other = dataclasses.replace(artifact, metadata=artifact.metadata | change)
    assert proving.prove(dataclasses.replace(stated, preprocessing=grey), other, ()).passed
    nothing_said = dataclasses.replace(artifact, metadata={})
    assert proving.prove(stated, nothing_said, ()).passed


def test_what_the_file_says_of_itself_has_to_be_so(tmp_path, exported):
    for key, value, expected in (
        ("input", "float32", "Expected pixel_values and probabilities, float32"),
        ("output", "logits", "Expected pixels and logits, uint8"),
        ("input", "uint4", "the input 'uint4' is not one of float32, uint8"),
    ):
        model = onnx.load(exported)
        next(p for p in model.metadata_props if p.key == key).value = value
        onnx.save(model, tmp_path / "out.onnx")
        with pytest.raises(ArtifactError, match=expected):
            load_artifact(tmp_path / "out.onnx")


def test_choices_that_do_not_exist_are_usage_errors(tmp_path, checkpoint):
    for options in (ExportOptions(input="int8"), ExportOptions(output="top5")):
        with pytest.raises(UsageError, match="is not one of"):
            pipeline.export(checkpoint, "onnx", tmp_path / "out.onnx", options=options)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type of multi_label_class"),
        ({"problem_type": "regression"}, "problem_type of regression"),
        ({"config": SQUARE.replace(num_classes=1)}, "one class, of which a softmax is always 1"),
    ],
)
def test_a_softmax_that_would_be_no_probability_is_refused(tmp_path, checkpoint, changes, expected):
    other = dataclasses.replace(checkpoint, **changes)
    with pytest.raises(UsageError, match=f"--output-type probabilities .*{expected}"):
        pipeline.export(other, "onnx", tmp_path / "out.onnx", options=BOTH)
    int8 = pipeline.Int8Options(tmp_path)
    with pytest.raises(UsageError, match=expected):
        pipeline.quantize(other, tmp_path / "out.onnx", int8, options=BOTH)
    assert list(tmp_path.iterdir()) == []


def test_what_the_logits_mean_is_carried_along_by_every_kind_of_file(tmp_path, checkpoint):
    other = dataclasses.replace(checkpoint, problem_type="regression")
    pipeline.fuse(other, tmp_path / "fused.safetensors")
    fused = read_checkpoint(tmp_path / "fused.safetensors")
    assert fused.problem_type == "regression"
    assert provenance_of(fused, "mean", "tokens").to_metadata()["problem_type"] == "regression"


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        (SMALL, {"unsupported": "config.json says crop_mode: border"}, "crop_mode: border"),
        (SMALL.replace(in_channels=2), {}, "3 means and 3 standard deviations"),
    ],
)
def test_bytes_that_nobody_knows_how_to_normalise_are_refused(
    tmp_path, checkpoint, config, changes, expected
):
    preprocessing = dataclasses.replace(checkpoint.preprocessing, **changes)
    other = dataclasses.replace(
        checkpoint, config=config, model=trained(config), preprocessing=preprocessing
    )
    with pytest.raises(UsageError, match=f"cannot be normalised: .*{expected}.*--preprocessing"):
        pipeline.export(other, "onnx", tmp_path / "out.onnx", options=BOTH)
    assert list(tmp_path.iterdir()) == []


# --- pictures, and inputs of the user's own -------------------------------------------------------


@pytest.mark.slow
def test_pictures_prove_both_an_artifact_that_takes_bytes_and_one_that_does_not(
    tmp_path, checkpoint, exported
):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    case = picture_case(checkpoint, tmp_path)
    pipeline.export(checkpoint, "onnx", tmp_path / "floats.onnx")
    for path in (exported, tmp_path / "floats.onnx"):
        found = pipeline.verify(checkpoint, path, extra=(case,))
        assert found.passed
        assert (found.cases[-1].name, found.cases[-1].images) == ("pictures", 1)


def test_images_that_are_normalised_already_are_none_for_bytes(checkpoint, exported):
    case = image_case("mine", np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(UsageError, match="'mine' are float32, and the artifact takes uint8"):
        pipeline.verify(checkpoint, exported, extra=(case,))
    own = image_case("mine", PIXELS)
    assert pipeline.verify(checkpoint, exported, extra=(own,)).cases[-1].name == "mine"
