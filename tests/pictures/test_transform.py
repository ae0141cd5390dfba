import dataclasses
from io import BytesIO

import numpy as np
import pytest
import scans
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL
from PIL import Image
from prepared import prepare, transform_of

from levit_deploy.demo import digits
from levit_deploy.errors import UsageError
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing

MEAN = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
TIMM = Preprocessing(crop_fraction=0.9)
SQUARE = SMALL.replace(image_size=(64, 64))
GREY = SQUARE.replace(in_channels=1)


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def normalised(pixels):
    """uint8 (height, width, 3) -> float64 (3, height, width)."""
    return (np.moveaxis(pixels, 2, 0) / 255 - MEAN) / STD


# --- against transformers, and by hand ------------------------------------------------------------


# 427x640 becomes 256x383: of 159 columns too many, 79 are cut off at the left, and not 80
@pytest.mark.slow  # transformers alone takes seconds to import
@pytest.mark.parametrize(
    ("side", "size"),
    [(64, size) for size in [(75, 133), (133, 75), (64, 64), (20, 31), (201, 40), (500, 501)]]
    + [(224, (427, 640)), (224, (640, 427))],
)
def test_it_is_what_transformers_computes(side, size):
    levit = pytest.importorskip(
        "transformers.models.levit.image_processing_pil_levit", reason="only the test extra has it"
    )
    processor = levit.LevitImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    picture = Image.fromarray(noise(*size))
    expected = processor(picture)["pixel_values"][0]
    image = prepare(picture, SMALL.replace(image_size=(side, side)), Preprocessing(truncated=True))
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "top", "left"),
    [((73, 73), 4, 4), ((73, 80), 4, 8), ((73, 83), 4, 10), ((81, 73), 8, 4), ((79, 73), 8, 4)],
)
def test_a_picture_that_needs_no_resizing_is_cropped_and_normalised(size, top, left):
    pixels = noise(*size)  # 73 is 64 / 0.875; 79 - 64 leaves 7.5 at each side
    image = prepare(Image.fromarray(pixels), SQUARE, IMAGENET)
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    expected = normalised(pixels[top : top + 64, left : left + 64])
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)
    top, left = (size[0] - 64) // 2, (size[1] - 64) // 2
    expected = normalised(pixels[top : top + 64, left : left + 64])
    image = prepare(Image.fromarray(pixels), SQUARE, Preprocessing(truncated=True))
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "preprocessing", "size", "resized"),
    [
        # 75:131 as 73:127.5, truncated as torchvision does
        (SQUARE, IMAGENET, (75, 131), (73, 127)),
        (SQUARE, IMAGENET, (131, 75), (127, 73)),
        (SQUARE, TIMM, (30, 47), (71, 111)),  # 111.2
        # 64x96 / 0.9 = 71x106; timm rounds where the sides differ
        (SMALL, TIMM, (100, 51), (208, 106)),  # 207.8
        (SMALL, TIMM, (100, 150), (71, 107)),  # 106.5, as 150 / (100 / 71) a bit more
        (SMALL, TIMM, (100, 151), (71, 107)),  # 107.2
        (SMALL, TIMM, (100, 140), (76, 106)),  # 75.7: high enough, so the width decides
        (SMALL, TIMM, (14, 49), (71, 249)),  # 248.5, likewise
        (SMALL, TIMM, (100, 50), (212, 106)),
    ],
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_resized_picture_just_covers_what_is_cropped(
    config, preprocessing, size, resized, interpolation
):
    picture = Image.fromarray(noise(*size))
    rows, columns = resized
    height, width = config.image_size
    by_hand = picture.resize((columns, rows), Image.Resampling[interpolation.upper()])
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    expected = normalised(np.asarray(by_hand)[top : top + height, left : left + width])
    preprocessing = Preprocessing(
        crop_fraction=preprocessing.crop_fraction, interpolation=interpolation
    )
    image = prepare(picture, config, preprocessing)
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)


# --- stretched, and with a border -----------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (30, 201), (7, 5), (500, 333)])
@pytest.mark.parametrize(
    ("config", "crop", "resized"),
    [(SQUARE, 1.0, (64, 64)), (SMALL, 1.0, (64, 96)), (SMALL, 0.9, (71, 106))],
)
def test_stretching_makes_exactly_the_size_of_every_picture(size, config, crop, resized):
    picture = Image.fromarray(noise(*size))
    (rows, columns), (height, width) = resized, config.image_size
    by_hand = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))
    top, left = round((rows - height) / 2), round((columns - width) / 2)  # 3.5 is 4
    expected = normalised(by_hand[top : top + height, left : left + width])
    how = Preprocessing(crop_fraction=crop, interpolation="bilinear", resize="stretch")
    np.testing.assert_allclose(prepare(picture, config, how), expected, rtol=0, atol=1e-6)


# 100x40 fits into 64x64 as 64x25.6, and 39 columns are 19 and 20; into 71x106 as 71x28
@pytest.mark.parametrize(
    ("config", "crop", "size", "resized", "before"),
    [
        (SQUARE, 1.0, (100, 40), (64, 26), (0, 19)),
        (SQUARE, 1.0, (40, 101), (25, 64), (19, 0)),
        (SQUARE, 1.0, (64, 64), (64, 64), (0, 0)),
        (SQUARE, 0.9, (100, 41), (71, 29), (-4, 17)),  # 3.5 rows are cut as 4 and 3
        (SQUARE, 0.9, (90, 90), (71, 71), (-4, -4)),
        (SMALL, 1.0, (100, 100), (64, 64), (0, 16)),
        (SMALL, 0.9, (50, 200), (26, 106), (19, -5)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_border_in_the_mean_colour_is_around_a_picture_that_fits(
    config, crop, size, resized, before, channels
):
    config = config.replace(in_channels=channels)
    picture = Image.fromarray(noise(*size, channels=channels))
    mean = (0.1, 0.5, 0.9)[:channels]
    how = Preprocessing(crop_fraction=crop, mean=mean, std=(1.0,), resize="border")
    by_hand = np.asarray(picture.resize(resized[::-1], Image.Resampling.BICUBIC))
    canvas = np.full((300, 300, channels), [26, 128, 230][:channels], np.uint8)  # 127.5, to even
    top, left = 100 + before[0], 100 + before[1]
    canvas[top : top + resized[0], left : left + resized[1]] = by_hand.reshape(*resized, channels)
    height, width = config.image_size
    expected = canvas[100 : 100 + height, 100 : 100 + width] / 255 - np.array(mean)
    image = prepare(picture, config, how)
    np.testing.assert_allclose(image, expected.transpose(2, 0, 1), rtol=0, atol=1e-6)


def test_a_picture_of_which_nothing_would_be_left_is_refused():
    how = Preprocessing(crop_fraction=1.0, resize="border")
    with pytest.raises(ValueError, match="resized would be 0 and 64"):
        prepare(Image.new("L", (1, 1000)), SQUARE, how)
    assert prepare(Image.new("L", (1, 100)), SQUARE, how).shape == (3, 64, 64)


def test_images_are_the_same_only_by_the_same_resizing():
    ways = [Preprocessing(crop_fraction=1.0, resize=way) for way in ("cover", "stretch", "border")]
    for one in ways:
        for two in ways:
            assert transform_of(SQUARE, one).same_images(two) == (one == two)


# --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    target=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.floats(0.1, 1),
)
def test_no_border_shows(size, target, crop):
    picture = Image.new("RGB", size, (200, 100, 50))
    image = prepare(picture, SMALL.replace(image_size=target), Preprocessing(crop_fraction=crop))
    expected = (np.array([200, 100, 50]).reshape(3, 1, 1) / 255 - MEAN) / STD
    assert image.shape == (3, *target)
    np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(75, 131), (40, 200), (64, 65)])
def test_what_lies_is_treated_as_what_stands(size):
    pixels = noise(*size) // 2 + 64  # far enough from black and white for bicubic overshoot
    lying = prepare(Image.fromarray(pixels), SQUARE, IMAGENET)
    standing = prepare(Image.fromarray(pixels.transpose(1, 0, 2).copy()), SQUARE, IMAGENET)
    # Pillow rounds to whole levels between its two passes
    np.testing.assert_allclose(lying, standing.transpose(0, 2, 1), rtol=0, atol=2.1 / 255 / 0.224)


# --- kinds of pictures ----------------------------------------------------------------------------


def test_a_network_of_one_channel_sees_grey():
    pixels = noise(73, 73, channels=1)
    expected = (pixels[None, 4:68, 4:68] / 255 - MEAN.mean()) / STD.mean()
    image = prepare(Image.fromarray(pixels), GREY, IMAGENET)
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)
    coloured = Image.merge("RGB", [Image.fromarray(pixels)] * 3)
    np.testing.assert_array_equal(prepare(coloured, GREY, IMAGENET), image)
    own = Preprocessing(mean=(0.3,), std=(0.5,))
    expected = (pixels[None, 4:68, 4:68] / 255 - 0.3) / 0.5
    np.testing.assert_allclose(prepare(coloured, GREY, own), expected, rtol=0, atol=1e-6)


def test_one_mean_is_that_of_every_colour():
    pixels = noise(73, 73)
    image = prepare(Image.fromarray(pixels), SQUARE, Preprocessing(mean=(0.5,), std=(0.25,)))
    expected = (np.moveaxis(pixels[4:68, 4:68], 2, 0) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)


def test_a_picture_is_turned_upright():
    picture = Image.fromarray(noise(90, 120))
    expected = prepare(picture, SQUARE, IMAGENET)
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[0x0112] = 6  # "turn me by 90 degrees, clockwise"
    np.testing.assert_array_equal(prepare(lying, SQUARE, IMAGENET), expected)


def _palette(grey):
    picture = grey.convert("P")
    picture.info["transparency"] = bytes(range(256))
    return picture


def _sixteen_bits(grey):
    rest = noise(grey.height, grey.width, channels=1, seed=1)
    return Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + rest)


KINDS = {
    "grey": lambda grey: grey,
    "grey and transparent": lambda grey: grey.convert("LA"),
    "transparent": lambda grey: Image.merge("RGBA", [grey, grey, grey, grey]),
    "palette": _palette,
    "16 bits": _sixteen_bits,
    "16 bits, as Pillow reads them from a .pgm": lambda grey: Image.fromarray(
        np.asarray(_sixteen_bits(grey)).astype(np.int32)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [SQUARE, GREY], ids=["colours", "grey"])
def test_every_kind_of_picture_is_the_same_picture(kind, config):
    grey = Image.fromarray(noise(90, 120, channels=1))
    expected = prepare(grey.convert("RGB"), config, IMAGENET)
    np.testing.assert_array_equal(prepare(KINDS[kind](grey), config, IMAGENET), expected)


def test_black_and_white_is_a_picture_too():
    bits = noise(73, 73, channels=1) > 127
    expected = normalised(np.repeat(bits[4:68, 4:68, None], 3, axis=2) * 255)
    image = prepare(Image.fromarray(bits), SQUARE, IMAGENET)
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("F", (80, 80)), "floating-point"),
        (Image.new("I", (80, 80), 65536), "more than 16 bits"),
        (Image.new("I", (80, 80), -1), "more than 16 bits"),
        (Image.new("I", (80, 80), 255), "none is above 255, so that they may be of 8 bits"),
        (Image.new("I;16", (80, 80), 1), "none is above 255, so that they may be of 8 bits"),
        (Image.new("L", (1, 20_000)), "resized would be 73 and 1460000"),
    ],
)
def test_a_picture_that_cannot_be_prepared_is_refused(picture, expected):
    with pytest.raises(ValueError, match=expected):
        prepare(picture, SQUARE, IMAGENET)


def test_black_is_black_in_16_bits_too():
    black = prepare(Image.new("L", (80, 80)), SQUARE, IMAGENET)
    np.testing.assert_array_equal(prepare(Image.new("I;16", (80, 80)), SQUARE, IMAGENET), black)


@pytest.mark.parametrize("channels", [2, 4])
def test_a_network_of_other_channels_takes_no_pictures(channels):
    with pytest.raises(UsageError, match=f"{channels} channels, and pictures have one"):
        prepare(Image.new("RGB", (80, 80)), SQUARE.replace(in_channels=channels), IMAGENET)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (Preprocessing(unsupported="config.json says crop_mode: other"), "crop_mode: other"),
        (Preprocessing(mean=(0.5,) * 4), "4 means and 3 standard deviations"),
        (Preprocessing(std=(0.5,) * 2), "3 means and 2 standard deviations"),
    ],
)
def test_what_a_config_asks_for_and_is_not_done_is_said(preprocessing, expected):
    with pytest.raises(UsageError, match=expected):
        prepare(Image.new("RGB", (80, 80)), SQUARE, preprocessing)


# --- what a config states -------------------------------------------------------------------------


def test_a_picture_is_fitted_in_bytes_and_then_normalised():
    pixels = np.random.default_rng(0).integers(0, 256, (70, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    transform = transform_of(SQUARE)
    fitted = transform.fit(picture)
    assert (fitted.dtype, fitted.shape) == (np.uint8, (*SQUARE.image_size, 3))
    expected = (fitted / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    found = transform.normalise(fitted[None], np.float64)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(prepare(picture, SQUARE, IMAGENET), transform.normalise(fitted))


def test_one_number_is_for_all_channels_and_grey_has_their_mean():
    four = SQUARE.replace(in_channels=4)
    mean, std = transform_of(
        four, Preprocessing(mean=(0.5,), std=(0.1, 0.2, 0.3, 0.4))
    ).statistics()
    assert (list(mean), list(std)) == ([0.5] * 4, [0.1, 0.2, 0.3, 0.4])
    mean, std = transform_of(GREY, Preprocessing(mean=(0.1, 0.2, 0.6), std=(0.5,))).statistics()
    assert (list(mean), list(std)) == (pytest.approx([0.3]), [0.5])


GREYS = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3


@pytest.mark.parametrize(
    ("config", "one", "other"),
    [
        (SQUARE, {"mean": (0.5,), "std": (0.25,)}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
        (GREY, {}, {"mean": (0.449,), "std": (0.226,)}),
        (GREY, {}, {"mean": GREYS[:1], "std": GREYS[1:] * 3}),
        (SQUARE, {"crop_fraction": 0.875}, {"crop_fraction": 64 / 73}),
        (SQUARE, {"unsupported": "a"}, {"unsupported": "a", "mean": (0.1,)}),
        (SQUARE, {"mean": (0.1,) * 4}, {"mean": (0.1,) * 4, "assumed": False}),
    ],
)
def test_the_same_is_the_same_however_it_is_spelt(config, one, other):
    assert transform_of(config, Preprocessing(**one)).same_images(Preprocessing(**other))
    assert transform_of(config, Preprocessing(**other)).same_images(Preprocessing(**one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"crop_fraction": 0.9}),
        ({}, {"interpolation": "bilinear"}),
        ({}, {"truncated": True}),
        ({}, {"unsupported": "a"}),
        ({"unsupported": "b"}, {"unsupported": "a"}),
        ({"mean": (0.5,)}, {"mean": (0.5, 0.5, 0.501)}),
        ({"mean": (0.5,)}, {"mean": (0.5,) * 4}),
        ({"std": (0.5,)}, {"std": (0.5001,)}),
    ],
)
def test_another_way_is_another(one, other):
    transform, changed = transform_of(SQUARE, Preprocessing(**one)), Preprocessing(**other)
    assert not transform.same_images(changed)
    assert transform.same_normalisation(changed) == (not {"mean", "std"} & other.keys())


# --- real scans -----------------------------------------------------------------------------------


def test_stretched_scans_are_answered_only_by_stretching_them_back():
    """The figures in docs/checkpoints.md."""
    model = scans.demo_checkpoint().model.eval()
    pictures = [
        Image.open(BytesIO(data)).resize((64, 128), Image.Resampling.BILINEAR)
        for data in digits.scan_files().values()
    ]
    top1 = {}
    for way in ("cover", "stretch"):
        how = dataclasses.replace(scans.PREPROCESSING, resize=way)
        transform = dataclasses.replace(scans.TRANSFORM, preprocessing=how)
        images = np.stack([transform.normalise(transform.fit(picture)) for picture in pictures])
        with torch.inference_mode():
            answers = model(torch.from_numpy(images)).argmax(1).numpy()
        top1[way] = round(100 * float((answers == digits.held_out().labels).mean()), 2)
    assert top1 == {"cover": 41.94, "stretch": 99.17}
