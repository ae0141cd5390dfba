"""A mistake at either end of an artifact, or another use of it, is no proof."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from interfaces import MEAN, PIXELS, SQUARE, STD
from networks import trained
from onnx import numpy_helper
from PIL import Image

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import ArtifactError, CheckpointError, UsageError, VerificationError
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.target import ExportOptions
from levit_deploy.verification import compare
from levit_deploy.verification import prove as prove_module
from levit_deploy.verification.inputs import image_case, picture_case


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


def test_only_the_borders_differ_where_the_mean_is_folded(pixels_onnx):
    """Or the sabotage would be another, and easier to see."""
    found = []
    for edit in (lambda _model: None, fold_the_mean_into_the_first_convolution):
        model = onnx.load(pixels_onnx)
        edit(model)
        model.graph.output.append(onnx.ValueInfoProto(name="patch_embed.0.conv"))
        session = onnx_session(model.SerializeToString())
        found.append(session.run(["patch_embed.0.conv"], {"pixels": PIXELS})[0])
    difference = np.abs(found[0] - found[1])
    assert difference[:, :, 1:, 1:].max() < 1e-5
    assert difference[:, :, 0].max() > 0.01


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_at_either_end_is_refused(tmp_path, square, pixels_onnx, monkeypatch, mistake):
    monkeypatch.setattr(compare, "TWINS", (0,))  # the first look will do
    model = onnx.load(pixels_onnx)
    MISTAKES[mistake](model)
    path = tmp_path / "wrong.onnx"
    onnx.save(model, path)
    found = prove_module.prove(square, load_artifact(path))
    assert not found.passed
    behind = ("softmax", "one logit")
    wrong = "head and head_dist" if mistake.startswith(behind) else "pixel_values"
    assert found.parting.block == wrong


def test_probabilities_that_say_nothing_of_the_network_prove_nothing(tmp_path, square):
    """All but one are below what float32 can hold, whatever the image: any network would do."""
    model = trained(SQUARE)
    for head in (model.head, model.head_dist):
        head.l.bias.data[0] += 1e3
    certain = dataclasses.replace(square, model=model)
    assert pipeline.export(certain, "onnx", tmp_path / "logits.onnx").verification.passed
    options = ExportOptions(output="probabilities")
    remedy = r"the proof proves nothing.*without --output-type probabilities"
    with pytest.raises(CheckpointError, match=remedy):
        pipeline.export(certain, "onnx", tmp_path / "probabilities.onnx", options=options)
    assert not (tmp_path / "probabilities.onnx").exists()


def test_another_normalisation_than_the_checkpoints_is_named(square, pixels_onnx):
    other = read_checkpoint(square.path)  # as for ImageNet
    with pytest.raises(VerificationError, match=r"give --preprocessing \"crop 0.875, bicubic, mea"):
        pipeline.verify(other, pixels_onnx)


@pytest.fixture(scope="module")
def floats(square):
    """An artifact that leaves pictures to others, of a checkpoint that names its classes."""
    path = square.path.with_suffix(".floats.onnx")
    stated = dataclasses.replace(square, labels=tuple("abcdefg"), problem_type="regression")
    pipeline.export(stated, "onnx", path)
    return stated, load_artifact(path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("labels", '["a", "b", "d", "c", "e", "f", "g"]', "class 2 'd', .* calls it 'c'.*--labels"),
        ("labels", '["a", "b", "c", "d", "e", "f"]', "class 6 '', the checkpoint calls it 'g'"),
        ("crop_fraction", 0.9, 'is "crop 0.9, .* is "crop 0.875, .*--preprocessing "crop 0.9, bic'),
        ("truncated", True, 'is "crop 0.875 truncated, '),
        ("interpolation", "box", 'is "crop 0.875, box, .* is "crop 0.875, bicubic'),
        ("std", [0.2, 0.25, 0.31], 'std 0.2 0.25 0.31", .* std 0.2 0.25 0.3"'),
        ("unsupported", "the moon is full", 'is "the moon is full", .* is "crop 0.875'),
        ("problem_type", "single_label_classification", "single_label_cl.* for regression"),
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
        prove_module.prove(stated, other)


@pytest.mark.parametrize("damage", [{"assumed": "{"}, {"config": "[]"}, {"preprocessing": "?"}])
def test_a_use_that_cannot_be_read_is_no_proof(floats, damage):
    """Others may read what we cannot: labels, one key of many."""
    stated, artifact = floats
    other = dataclasses.replace(artifact, metadata=artifact.metadata | damage)
    with pytest.raises(ArtifactError, match=r"The metadata of .* cannot be read"):
        prove_module.prove(stated, other)


def test_what_the_checkpoint_does_not_state_is_not_compared(square, floats):
    _, artifact = floats
    own = dataclasses.replace(square.preprocessing, mean=(0.1,), assumed=True)
    silent = dataclasses.replace(square, preprocessing=own)
    assert prove_module.prove(silent, artifact).passed


def test_the_same_use_may_be_spelt_otherwise_or_be_left_unsaid(floats):
    stated, artifact = floats
    grey = dataclasses.replace(stated.preprocessing, mean=(0.5,), std=(0.25,) * 3)
    spelt = dataclasses.replace(grey, mean=(0.5,) * 3, std=(0.25,), assumed=True)
    change = {"preprocessing": spelt.to_json(), "labels": "[]"}
    other = dataclasses.replace(artifact, metadata=artifact.metadata | change)
    assert prove_module.prove(dataclasses.replace(stated, preprocessing=grey), other).passed
    nothing_said = dataclasses.replace(artifact, metadata={})
    assert prove_module.prove(stated, nothing_said).passed


@pytest.mark.slow
def test_pictures_prove_artifacts_that_take_bytes_or_floats(tmp_path, square, pixels_onnx):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    case = picture_case(square, tmp_path)
    pipeline.export(square, "onnx", tmp_path / "floats.onnx")
    for path in (pixels_onnx, tmp_path / "floats.onnx"):
        found = pipeline.verify(square, path, extra=(case,))
        assert found.passed
        assert (found.cases[-1].name, found.cases[-1].images) == ("pictures", 1)


def test_images_that_are_normalised_already_are_none_for_bytes(square, pixels_onnx):
    case = image_case("mine", np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(UsageError, match="'mine' are float32, and the artifact takes uint8"):
        pipeline.verify(square, pixels_onnx, extra=(case,))
    own = image_case("mine", PIXELS)
    assert pipeline.verify(square, pixels_onnx, extra=(own,)).cases[-1].name == "mine"
