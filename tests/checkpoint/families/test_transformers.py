import json
import math

import networks
import numpy as np
import pytest
from networks import GOLDENS
from PIL import Image
from prepared import prepare

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
        ("do_pad", True),
        ("image_processor_type", "CLIPImageProcessor"),
        ("feature_extractor_type", "BeitFeatureExtractor"),
        ("size", {"height": 224, "width": "224"}),
        ("size", {"longest_edge": 224}),
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


SIDES = {"height": 64, "width": 96}
STRETCHED = [
    ("Levit", {"do_center_crop": False, "size": SIDES}, (64, 96), None),
    ("Levit", {"size": SIDES, "crop_size": SIDES}, (64, 96), None),
    ("Levit", {"size": {"height": 73, "width": 73}, "crop_size": 64}, (73, 73), (64, 64)),
    ("ViT", {"size": SIDES}, (64, 96), None),
    ("ViT", {"size": 48}, (48, 48), None),
    ("ViT", {}, (224, 224), None),
    ("DeiT", {}, (256, 256), (224, 224)),
    ("DeiT", {"size": SIDES, "do_center_crop": False}, (64, 96), None),
    ("DeiT", {"size": SIDES, "crop_size": {"height": 56, "width": 84}}, (64, 96), (56, 84)),
    ("ConvNext", {"size": {"shortest_edge": 384}, "resample": 3}, (384, 384), None),
]


@pytest.mark.parametrize(("kind", "fields", "resized", "cropped"), STRETCHED)
def test_a_processor_that_stretches_is_known_by_its_sizes(kind, fields, resized, cropped):
    for name in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil"):
        stated = {"image_processor_type": kind + name, **fields}
        known = transformers.known({PREPROCESSOR_CONFIG: stated})
        how = known.preprocessing
        assert (how.unsupported, how.resize, how.assumed) == ("", "stretch", False)
        assert known.picture_size == (cropped or resized)
        target = tuple(math.floor(side / how.crop_fraction) for side in known.picture_size)
        assert target == resized
        assert how.truncated == (cropped is not None)


@pytest.mark.slow  # transformers alone takes seconds to import
@pytest.mark.parametrize(("kind", "fields", "resized", "cropped"), STRETCHED)
def test_and_transformers_stretches_so(kind, fields, resized, cropped):
    module = pytest.importorskip(
        f"transformers.models.{kind.lower()}.image_processing_pil_{kind.lower()}",
        reason="only the test extra has it",
    )
    processor = getattr(module, f"{kind}ImageProcessorPil")(**fields)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 131, 3), np.uint8)
    expected = processor(Image.fromarray(pixels))["pixel_values"][0]
    stated = json.loads(processor.to_json_string())
    assert stated["image_processor_type"] == f"{kind}ImageProcessor"
    for config in ({"image_processor_type": f"{kind}ImageProcessor", **fields}, stated):
        known = transformers.known({PREPROCESSOR_CONFIG: config})
        assert known.preprocessing.unsupported == ""
        network = networks.SMALL.replace(image_size=cropped or resized)
        found = prepare(Image.fromarray(pixels), network, known.preprocessing)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "{'crop_size'"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 64}}, "do_center"),
        ({"size": SIDES, "crop_size": {"height": 56, "width": 90}}, "{'size': "),
        ({"size": SIDES, "crop_size": 96}, "{'size': "),  # it pads with black
        ({"image_processor_type": "ConvNextImageProcessor"}, "{'resample': None}"),
        (
            {
                "image_processor_type": "ConvNextImageProcessor",
                "size": {"shortest_edge": 224},
                "resample": 3,
            },
            "{'size': {'shortest_edge': 224}}",
        ),
    ],
)
def test_sizes_that_are_no_plain_stretch_are_left_to_whoever_gives_pictures(fields, expected):
    assert expected in preprocessing(**fields).unsupported


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
