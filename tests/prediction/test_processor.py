import dataclasses
import json

import numpy as np
import pytest
from networks import SMALL
from PIL import Image
from prepared import prepare

from levit_deploy.errors import ArtifactError, BackendError
from levit_deploy.interface import Interface
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.prediction.processor import read_processor, run
from levit_deploy.provenance import Provenance
from levit_deploy.runtime.artifact import Artifact

CONFIG = SMALL.replace(image_size=(32, 48))
PREPROCESSING = Preprocessing(
    crop_fraction=0.9,
    interpolation="bilinear",
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.25),
    assumed=False,
)


def artifact(
    config=CONFIG, stated=PREPROCESSING, *, batch_size=None, run=None, changes=()
) -> Artifact:
    """One whose output is the mean of each channel, over and over."""

    def means(inputs):
        return np.resize(inputs.mean((2, 3)).T, (config.num_classes, len(inputs))).T

    provenance = Provenance(
        checkpoint_sha256="", config=config, head="mean", layout="tokens", preprocessing=stated
    )
    found = provenance.to_metadata() | dict(changes)
    found = {key: value for key, value in found.items() if value is not None}
    shape = (config.in_channels, *config.image_size)
    if found.get("input") == "uint8":
        shape = (*config.image_size, config.in_channels)
    return Artifact(
        path="a.onnx",
        format="onnx",
        runtime="onnxruntime",
        sha256="",
        metadata=found,
        batch_size=batch_size,
        image_shape=shape,
        run=run or means,
        values=None,
    )


def picture(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_an_artifact_that_says_no_more_takes_floats_and_gives_logits():
    processor = read_processor(artifact())
    assert (processor.labels, processor.interface) == ((), Interface("float32", "logits"))
    inputs = processor.to_input(picture())
    np.testing.assert_array_equal(inputs, prepare(picture(), CONFIG, PREPROCESSING))
    assert processor.to_floats(inputs[None]) is not None
    np.testing.assert_array_equal(processor.to_floats(inputs[None])[0], inputs)


def test_an_artifact_may_take_bytes_which_are_the_same_picture():
    processor = read_processor(artifact(changes={"input": "uint8"}))
    inputs = processor.to_input(picture())
    assert (inputs.dtype, inputs.shape) == (np.uint8, (32, 48, 3))
    floats = prepare(picture(), CONFIG, PREPROCESSING)
    np.testing.assert_array_equal(processor.to_floats(inputs[None])[0], floats)


def test_labels_and_probabilities_are_as_it_says():
    labels = tuple("abcdefg")
    processor = read_processor(
        artifact(changes={"labels": json.dumps(labels), "output": "probabilities"})
    )
    assert (processor.labels, processor.interface.output) == (labels, "probabilities")


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression", "later"])
def test_what_does_not_tell_classes_apart_has_no_answers(problem_type):
    with pytest.raises(ArtifactError, match=f"no most probable class: .* {problem_type}"):
        read_processor(artifact(changes={"problem_type": problem_type}))
    with pytest.raises(ArtifactError, match="no most probable class: the network has one class"):
        read_processor(artifact(CONFIG.replace(num_classes=1)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"config": None}, "KeyError: 'config'"),
        ({"preprocessing": "{}"}, "KeyError: 'mean'"),
        ({"labels": '["a", "b"]'}, "2 labels for 7 classes"),
        ({"labels": "[1, 2, 3, 4, 5, 6, 7]"}, "the label '1'"),
        ({"labels": "tabby"}, "JSONDecodeError"),
        ({"input": "uint16"}, "the input 'uint16' is not one of float32, uint8"),
        ({"output": "log"}, "the output 'log' not one of logits, probabilities"),
    ],
)
def test_damaged_metadata_is_refused(changes, expected):
    with pytest.raises(ArtifactError, match=r"a\.onnx does not state .* Export it again") as caught:
        read_processor(artifact(changes=changes))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("config", "preprocessing", "expected"),
    [
        (CONFIG.replace(in_channels=4), PREPROCESSING, "4 channels"),
        (CONFIG, dataclasses.replace(PREPROCESSING, unsupported="pad is on"), "pad is on"),
    ],
)
def test_a_network_that_takes_no_pictures_is_refused(config, preprocessing, expected):
    with pytest.raises(ArtifactError, match=f"cannot be given pictures: .*{expected}"):
        read_processor(artifact(config, preprocessing))


def test_an_artifact_of_another_shape_than_it_says_is_refused():
    turned = dataclasses.replace(artifact(), image_shape=(3, 48, 32))
    with pytest.raises(ArtifactError, match=r"\(3, 48, 32\)"):
        read_processor(turned)


def noise(n):
    return np.random.default_rng(n).standard_normal((n, 3, 32, 48), dtype=np.float32)


def test_a_fixed_batch_is_filled_up_and_only_its_own_rows_come_back():
    sizes = []
    free = artifact()

    def fixed(inputs):
        sizes.append(len(inputs))
        return free.run(inputs)

    held = artifact(batch_size=4, run=fixed)
    for n in (1, 3, 4):
        found = run(held, read_processor(held), noise(n))
        np.testing.assert_array_equal(found, free.run(noise(n)))
    assert sizes == [4, 4, 4]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (np.zeros((3, 7)), r"shape \(3, 7\) for 2 pictures"),
        (np.zeros((2, 6)), r"shape \(2, 6\)"),
        (np.zeros(14), r"shape \(14,\)"),
        (np.array([[0.0] * 7, [0.0] * 6 + [np.nan]]), "gave NaN or infinity"),
        (np.array([[np.inf] + [0.0] * 6, [0.0] * 7]), "gave NaN or infinity"),
    ],
)
def test_what_is_no_answer_is_refused(output, expected):
    wrong = artifact(run=lambda _inputs: output)
    with pytest.raises(BackendError, match=expected):
        run(wrong, read_processor(wrong), noise(2))
