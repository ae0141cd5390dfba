import json

import pytest

from levit_deploy.errors import CheckpointError, UsageError
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing, stated, told

TIMM = Preprocessing(crop_fraction=0.9)

NONSENSE = [
    ("resize", "squash"),
    ("resize", ["stretch"]),
    ("crop_fraction", 87.5),
    ("crop_fraction", 0),
    ("crop_fraction", "0.9"),
    ("crop_fraction", True),
    ("crop_fraction", float("nan")),
    ("interpolation", "random"),
    ("interpolation", ["bicubic"]),
    ("interpolation", 3),
    ("mean", [123.7, 116.3, 103.5]),
    ("mean", []),
    ("mean", "0.5"),
    ("mean", {}),
    ("mean", [[0.5], [0.5], [0.5]]),
    ("mean", [0.5, None, 0.5]),
    ("mean", [10**400] * 3),
    ("std", [0.2, 0, 0.2]),
    ("std", [0.2, -0.2, 0.2]),
    ("std", [float("inf")] * 3),
    ("std", [58.4, 57.1, 57.4]),
]


@pytest.mark.parametrize(("field", "value"), NONSENSE)
def test_nonsense_in_a_config_is_refused(field, value):
    with pytest.raises(CheckpointError, match=r"^some\.json has .* give the weights file alone"):
        stated(IMAGENET, "some.json", **{field: value})
    text = json.dumps({**json.loads(IMAGENET.to_json()), field: value})
    with pytest.raises((ValueError, TypeError)):
        Preprocessing.from_json(text)


def test_a_silent_config_leaves_what_is_usual():
    assert stated(TIMM, "config.json", mean=None, crop_fraction=None) is TIMM
    assert TIMM.assumed


def test_what_a_config_states_is_no_assumption():
    found = stated(TIMM, "config.json", mean=[0.5, 0.4, 0.3], std=None, interpolation="bilinear")
    mean = (0.5, 0.4, 0.3)
    assert found == Preprocessing(
        crop_fraction=0.9, interpolation="bilinear", mean=mean, std=TIMM.std, assumed=False
    )


def test_it_reads_back():
    for one in (
        IMAGENET,
        Preprocessing(
            crop_fraction=1,
            interpolation="box",
            mean=(0.5,),
            std=(1.0,),
            assumed=False,
            unsupported="x",
        ),
    ):
        assert Preprocessing.from_json(one.to_json()) == one


# --- bytes, and what a user says ------------------------------------------------------------------


def test_what_is_printed_of_pictures_can_be_told():
    own = Preprocessing(
        crop_fraction=0.9,
        interpolation="bilinear",
        mean=(0.5, 0.25, 0.125),
        std=(0.1,),
        assumed=False,
    )
    assert told(str(own), IMAGENET) == own
    # 248 / 224 in no short decimal number, and transformers' way to crop
    longer = Preprocessing(
        crop_fraction=224 / 248,
        interpolation="box",
        mean=(1 / 3,),
        std=(0.1,),
        assumed=False,
        truncated=True,
    )
    assert told(str(longer), IMAGENET) == longer
    assert "0.9032258064516129 truncated, box" in str(longer)
    assert told(str(own), longer) == own
    assert told("nearest", longer).truncated
    part = told("std 0.5 , nearest", own)
    assert part == Preprocessing(
        crop_fraction=0.9, interpolation="nearest", mean=own.mean, std=(0.5,), assumed=False
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"resize": "stretch", "crop_fraction": 1.0}, "stretch"),
        ({"resize": "border", "crop_fraction": 1.0}, "border"),
        ({"resize": "stretch", "crop_fraction": 0.9}, "crop 0.9, stretch"),
        ({"resize": "border", "crop_fraction": 0.95}, "crop 0.95, border"),
        (
            {"resize": "stretch", "crop_fraction": 0.9, "truncated": True},
            "crop 0.9 truncated, stretch",
        ),
        ({"crop_fraction": 1.0}, "crop 1.0"),
    ],
)
def test_every_way_to_resize_has_words_that_read_back(fields, words):
    own = Preprocessing(assumed=False, **fields)
    rest = "bicubic, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert str(own) == f"{words}, {rest}"
    for usual in (IMAGENET, own, Preprocessing(resize="border", truncated=True, unsupported="x")):
        assert told(str(own), usual) == own  # all is said, so that nothing of the usual stays
    assert told(f"{rest}, {words}", IMAGENET) == own
    assert Preprocessing.from_json(own.to_json()) == own


def test_files_from_before_there_was_a_choice_cover():
    fields = json.loads(IMAGENET.to_json())
    del fields["resize"]
    assert Preprocessing.from_json(json.dumps(fields)) == IMAGENET


def test_other_steps_are_forgotten_only_where_all_is_told():
    other = Preprocessing(unsupported="config.json says crop_mode: other")
    assert told("crop 0.9, mean 0.5, std 0.5", other).unsupported == other.unsupported
    for crop in ("crop 0.9", "crop 0.9 truncated", "stretch", "crop 0.9, border"):
        assert told(f"{crop}, bicubic, mean 0.5, std 0.5", other).unsupported == ""
        assert told(f"{crop}, bicubic, mean 0.5", other).unsupported == other.unsupported


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it is empty"),
        ("mean", "'mean' is not one of its parts"),
        ("mean 0.5 x", "could not convert"),
        ("mean 124 116 104", "the mean is"),
        ("std nan", "the std is"),
        ("std 0", "the std is"),
        ("crop 0.9 0.8", "'crop 0.9 0.8' is not one of its parts"),
        ("crop 0.9 rounded", "'crop 0.9 rounded' is not one of its parts"),
        ("crop truncated", "could not convert"),
        ("bicubic, nearest", "'nearest' is there twice"),
        ("stretch, border", "'border' is there twice"),
        ("stretch 0.9", "'stretch 0.9' is not one of its parts"),
        ("cover", "'cover' is not one of its parts"),
        ("resize 256", "'resize 256' is not one of its parts"),
    ],
)
def test_nonsense_about_pictures_is_no_option(text, expected):
    with pytest.raises(UsageError, match=f"--preprocessing .*: {expected}.* Expected parts"):
        told(text, IMAGENET)
