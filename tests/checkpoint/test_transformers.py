import pytest
from networks import GOLDENS
from PIL import Image

from levit_deploy.checkpoint import transformers
from levit_deploy.checkpoint.folder import PREPROCESSOR_CONFIG, locate
from levit_deploy.errors import CheckpointError
from levit_deploy.preprocessing import IMAGENET, Preprocessing


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
    expected = Preprocessing(0.875, "bicubic", mean, std, assumed=False)
    assert transformers.known(config).preprocessing == expected


def test_what_becomes_of_pictures_is_assumed_where_nothing_states_it():
    assert transformers.known({}).preprocessing == IMAGENET
    assert transformers.known({PREPROCESSOR_CONFIG: "of config.json"}).preprocessing == IMAGENET
    assert IMAGENET.assumed


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
    # it resizes to 256 * 256 / 224 and crops 224 out of them
    assert found.crop_fraction == pytest.approx(224 / (256 * 256 / 224))
    expected = ("bilinear", (0.5, 0.4, 0.3), (0.25,), "", False)
    rest = (found.interpolation, found.mean, found.std, found.unsupported, found.assumed)
    assert rest == expected


@pytest.mark.parametrize(
    "sizes",
    [
        {"size": 224, "crop_size": 224},
        {"size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}},
        {"size": 192},
        {"crop_size": {"height": 192, "width": 192}},
    ],
)
def test_published_sizes_crop_seven_eighths(sizes):
    found = preprocessing(**sizes, resample=0)
    assert (found.crop_fraction, found.interpolation) == (0.875, "nearest")


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
        ("size", {"height": 224, "width": 224}),
        ("size", {"shortest_edge": 0}),
        ("crop_size", {"height": 224, "width": 192}),
        ("crop_size", [224, 224]),
    ],
)
def test_another_way_is_known_and_left_to_whoever_gives_pictures(field, value):
    expected = f"preprocessor_config.json says {{{field!r}: {value!r}}}"
    assert preprocessing(**{field: value}).unsupported == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"resample": 6}, "the interpolation is 6"),
        ({"resample": True}, "the interpolation is True"),
        ({"resample": [3]}, r"the interpolation is \(3,\)"),
        ({"image_mean": [124, 116, 104]}, "the mean is"),
        ({"image_std": 0}, "the std is"),
        ({"size": 224, "crop_size": 257}, "the crop is 1.00"),
    ],
)
def test_nonsense_about_pictures_is_refused(fields, expected):
    with pytest.raises(CheckpointError, match=rf"^preprocessor_config\.json .* that {expected}"):
        preprocessing(**fields)


def test_labels_are_names_and_not_their_placeholders():
    names = {"1": "goldfish", "0": "tench"}
    assert transformers.known({"id2label": names}).labels == ("tench", "goldfish")
    assert transformers.known({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}).labels == ()
    assert transformers.known({}).labels == ()
    with pytest.raises(CheckpointError, match="none of them for the class 0"):
        transformers.known({"id2label": {"1": "a", "2": "b"}})
