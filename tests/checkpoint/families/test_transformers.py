import math

import numpy as np
import pytest
from networks import GOLDENS
from PIL import Image

from levit_deploy.checkpoint.families import transformers
from levit_deploy.checkpoint.folder import PREPROCESSOR_CONFIG, PROCESSOR_CONFIG, locate
from levit_deploy.errors import CheckpointError
from levit_deploy.pictures.preprocessing import Preprocessing

USUAL = Preprocessing(truncated=True)


def test_the_golden_config_is_read():
    _, config = locate(GOLDENS / "transformers")
    known = transformers.known(config)
    assert (known.activation, known.image_size) == ("hardswish", (96, 96))


def test_the_activation_is_known_without_a_config():
    known = transformers.known({})
    assert (known.activation, known.image_size) == ("hardswish", None)


def test_both_sides_of_an_image_may_be_given():
    assert transformers.known({"image_size": [64, 96]}).image_size == (64, 96)


@pytest.mark.parametrize(
    ("field", "value"), [("kernel_size", 5), ("stride", 1), ("padding", 0), ("padding", "1")]
)
def test_another_stem_is_refused(field, value):
    with pytest.raises(CheckpointError, match=f"{field} is {value!r}"):
        transformers.known({"model_type": "levit", field: value})


def test_the_config_of_another_network_is_refused():
    with pytest.raises(CheckpointError, match="'vit'"):
        transformers.known({"model_type": "vit"})


def test_a_model_without_a_head_matches_and_has_the_head_missing():
    keys = ["patch_embeddings.embedding_layer_1.convolution.weight"]
    assert transformers.matches(keys)
    assert list(transformers.convert(dict.fromkeys(keys))) == ["patch_embed.0.c.weight"]


def test_the_config_states_the_architecture():
    stated = transformers.known(locate(GOLDENS / "transformers")[1]).stated
    assert stated == {
        "classes": 10,
        "input channels": 3,
        "stage widths": (16, 24, 32),
        "blocks a stage": (1, 1, 1),
        "attention heads a stage": (2, 3, 4),
    }
    stated = transformers.known(locate(GOLDENS / "transformers-single-head")[1]).stated
    assert stated["classifier heads"] == 1
    assert transformers.known({"num_labels": 7}).stated == {"classes": 7}


def preprocessing(**fields):
    return transformers.known({PREPROCESSOR_CONFIG: fields}).preprocessing


def test_the_golden_folder_states_what_becomes_of_pictures():
    _, config = locate(GOLDENS / "transformers")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = Preprocessing(
        crop_fraction=0.875,
        interpolation="bicubic",
        mean=mean,
        std=std,
        assumed=False,
        truncated=True,
    )
    known = transformers.known(config)
    assert (known.preprocessing, known.picture_size) == (expected, (96, 96))


def test_what_becomes_of_pictures_is_assumed_where_nothing_states_it():
    for config in ({}, {PREPROCESSOR_CONFIG: "of config.json"}):
        known = transformers.known(config)
        assert (known.preprocessing, known.picture_size) == (USUAL, None)
    assert USUAL.assumed
    # a config that says nothing is LevitImageProcessor's, which crops to 224
    assert transformers.known({PREPROCESSOR_CONFIG: {}}).preprocessing == USUAL
    assert transformers.known({PREPROCESSOR_CONFIG: {}}).picture_size == (224, 224)


def test_what_newer_versions_write_comes_first():
    older = {PREPROCESSOR_CONFIG: {"image_mean": [0.1] * 3}}
    newer = {PROCESSOR_CONFIG: {"image_processor": {"image_mean": [0.2] * 3}}}
    assert transformers.known(older | newer).preprocessing.mean == (0.2,) * 3
    assert transformers.known(newer).preprocessing.mean == (0.2,) * 3
    # that of another kind of processor has nothing to say of pictures
    other = {PROCESSOR_CONFIG: {"processor_class": "Some"}}
    assert transformers.known(older | other).preprocessing.mean == (0.1,) * 3
    wrong = {PROCESSOR_CONFIG: {"image_processor": {"image_mean": [124]}}}
    with pytest.raises(CheckpointError, match=r"^processor_config\.json has"):
        transformers.known(older | wrong)


def test_a_processor_of_ones_own():
    found = preprocessing(
        image_processor_type="LevitImageProcessorFast",
        resample=2,
        image_mean=[0.5, 0.4, 0.3],
        image_std=0.25,
        size=256,
        crop_size={"height": 224, "width": 224},
        do_rescale=None,
    )
    # it resizes to int(256 * 256 / 224) and crops 224 out of them
    assert math.floor(224 / found.crop_fraction) == 292
    expected = ("bilinear", (0.5, 0.4, 0.3), (0.25,), "", False)
    rest = (found.interpolation, found.mean, found.std, found.unsupported, found.assumed)
    assert rest == expected


# what is missing is 224, but for LevitFeatureExtractor, which had one size for both
SIZES = [
    ({"size": 224, "crop_size": 224}, 256, 224),
    ({"size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}}, 109, 96),
    ({"size": 224}, 256, 224),
    ({"size": 192, "feature_extractor_type": "LevitFeatureExtractor"}, 219, 192),
    ({"size": 192, "image_processor_type": "LevitImageProcessor", "crop_size": None}, 219, 224),
    ({"crop_size": {"height": 192, "width": 192}}, 256, 192),
    ({"size": {"shortest_edge": 256}}, 292, 224),
    ({"size": {"shortest_edge": 350}}, 400, 224),
]


@pytest.mark.parametrize(("sizes", "covered", "side"), SIZES)
def test_sizes_are_what_transformers_makes_of_them(sizes, covered, side):
    known = transformers.known({PREPROCESSOR_CONFIG: {**sizes, "resample": 0}})
    assert known.picture_size == (side, side)
    if covered < side:  # and it pads with black
        assert known.preprocessing.unsupported.endswith("{'size': 192, 'crop_size': 224}")
        return
    assert math.floor(side / known.preprocessing.crop_fraction) == covered
    assert (known.preprocessing.crop_fraction == 0.875) == (covered == side * 8 // 7)
    assert (known.preprocessing.unsupported, known.preprocessing.interpolation) == ("", "nearest")


@pytest.mark.slow  # transformers alone takes seconds to import
@pytest.mark.parametrize(
    ("sizes", "covered", "side"),
    [
        case
        for case in SIZES
        if "feature_extractor_type" not in case[0] and None not in case[0].values()
    ],
)
def test_and_transformers_makes_that_of_them(sizes, covered, side):
    levit = pytest.importorskip(
        "transformers.models.levit.image_processing_pil_levit", reason="only the test extra has it"
    )
    processor = levit.LevitImageProcessorPil(**sizes, do_normalize=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (450, 500, 3), np.uint8))
    assert processor(picture)["pixel_values"][0].shape == (3, side, side)
    columns = covered * 500 // 450
    by_hand = picture.resize((columns, covered), Image.Resampling.BICUBIC)
    top, left = (covered - side) // 2, (columns - side) // 2
    expected = np.asarray(by_hand)[top : top + side, left : left + side] / 255
    found = processor(picture)["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", range(6))
def test_interpolations_have_pillows_numbers(number):
    assert preprocessing(resample=number).interpolation == Image.Resampling(number).name.lower()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("do_resize", False),
        ("do_center_crop", False),
        ("do_rescale", False),
        ("do_normalize", False),
        ("rescale_factor", 1 / 127.5),
        ("image_processor_type", "ViTImageProcessor"),
        ("feature_extractor_type", "ViTFeatureExtractor"),
        ("size", {"height": 224, "width": 224}),
        ("size", {"shortest_edge": 0}),
        ("crop_size", {"height": 224, "width": 192}),
        ("crop_size", [224, 224]),
    ],
)
def test_another_way_is_known_and_left_to_whoever_gives_pictures(field, value):
    expected = f"preprocessor_config.json says {{{field!r}: {value!r}}}"
    known = transformers.known({PREPROCESSOR_CONFIG: {field: value}})
    makes_another_size = field in ("do_center_crop", "image_processor_type", "crop_size")
    makes_another_size |= field == "feature_extractor_type"
    size = None if makes_another_size else (224, 224)
    assert (known.preprocessing.unsupported, known.picture_size) == (expected, size)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"resample": 6}, "the interpolation is 6"),
        ({"resample": True}, "the interpolation is True"),
        ({"resample": [3]}, r"the interpolation is \(3,\)"),
        ({"image_mean": [124, 116, 104]}, "the mean is"),
        ({"image_std": 0}, "the std is"),
        ({"size": 224, "crop_size": 20}, "the crop is 0.07"),
    ],
)
def test_nonsense_about_pictures_is_refused(fields, expected):
    with pytest.raises(CheckpointError, match=rf"^preprocessor_config\.json .*: {expected}"):
        preprocessing(**fields)


def test_labels_are_names_and_not_their_placeholders():
    names = {"1": "goldfish", "0": "tench"}
    assert transformers.known({"id2label": names}).labels == ("tench", "goldfish")
    assert transformers.known({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}).labels == ()
    assert transformers.known({}).labels == ()
    with pytest.raises(CheckpointError, match="none of them for the class 0"):
        transformers.known({"id2label": {"1": "a", "2": "b"}})
    assert transformers.known({"id2label": {"0": 7, "1": 10}}).labels == ("7", "10")
    with pytest.raises(CheckpointError, match="the label 'True' for the class 1"):
        transformers.known({"id2label": {"0": 7, "1": True}})


def test_what_the_logits_mean_is_read():
    assert transformers.known({}).problem_type == "single_label_classification"
    for stated in ("single_label_classification", "multi_label_classification", "regression"):
        assert transformers.known({"problem_type": stated}).problem_type == stated
    with pytest.raises(CheckpointError, match="the problem_type is 'ranking'"):
        transformers.known({"problem_type": "ranking"})
