"""How a picture becomes an input: resized, cropped, scaled to 0..1 and normalised.

In a network's training and evaluation code these are torchvision's Resize, CenterCrop, ToTensor and
Normalize on a Pillow picture (``datasets.py`` of the official code, timm's
``transforms_imagenet_eval``, transformers' ``LevitImageProcessor``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from levit_deploy.config import Grid, LeViTConfig
from levit_deploy.errors import UsageError
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing

MAX_RESIZED_PIXELS = 1 << 26  # 200 MB in colours; a photo takes less than one


class UnfitPictureError(ValueError):
    """A whole picture that is of no use: what about it, and what was expected."""


def fit(
    picture: Image.Image, config: LeViTConfig, preprocessing: Preprocessing
) -> npt.NDArray[np.uint8]:
    """Resize and crop a picture to a network's image size: uint8 (height, width, channels).

    It is turned upright, as its EXIF data say; transparency is ignored, as where such networks are
    trained. Raises UnfitPictureError where this picture cannot be used.
    """
    picture = _eight_bits(ImageOps.exif_transpose(picture))
    picture = picture.convert("L" if config.in_channels == 1 else "RGB")
    height, width = config.image_size
    covered = _covered(config, preprocessing)
    rows, columns = _covering((picture.height, picture.width), covered)
    if rows * columns > MAX_RESIZED_PIXELS:
        raise UnfitPictureError(
            f"it is {picture.width} pixels wide and {picture.height} high, which resized would be "
            f"{columns} and {rows}. Expected sides more alike"
        )
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    picture = picture.resize((columns, rows), resample)
    half = math.floor if preprocessing.truncated else round
    top, left = half((rows - height) / 2), half((columns - width) / 2)
    picture = picture.crop((left, top, left + width, top + height))
    return np.asarray(picture, np.uint8).reshape(height, width, config.in_channels)


def normalise(
    pixels: npt.NDArray[np.generic],
    config: LeViTConfig,
    preprocessing: Preprocessing,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[Any]:
    """Scale to 0..1 and normalise: uint8 (..., height, width, channels) -> (..., channels, ...).

    It computes in ``dtype``, a float. Raises UsageError as ``channel_statistics`` does.
    """
    mean, std = (np.array(x, dtype) for x in channel_statistics(config, preprocessing))
    normalised = (pixels.astype(dtype) / 255 - mean) / std
    return np.ascontiguousarray(np.moveaxis(normalised, -1, -3))


def channel_statistics(
    config: LeViTConfig, preprocessing: Preprocessing
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation, of pixels from 0 to 1, of each of a network's channels.

    Those of colours are averaged for grey. Raises UsageError where they are not known for each, or
    a config states other steps.
    """
    if preprocessing.unsupported:
        raise UsageError(
            f"Bytes cannot be normalised: {preprocessing.unsupported}, which is not done here. "
            f'State all that is to be done, as in --preprocessing "{IMAGENET}".'
        )
    mean, std = _of_each(preprocessing.mean, config), _of_each(preprocessing.std, config)
    if {len(mean), len(std)} != {config.in_channels}:
        raise UsageError(
            f"Bytes cannot be normalised: {len(preprocessing.mean)} means and "
            f"{len(preprocessing.std)} standard deviations are known, and the images have "
            f"{config.in_channels} channels. Expected one for all, or one for each. Give them, "
            'as in --preprocessing "mean 0.5, std 0.5".'
        )
    return np.array(mean, np.float64), np.array(std, np.float64)


def same_images(config: LeViTConfig, one: Preprocessing, other: Preprocessing) -> bool:
    """Whether a network's images come out the same of every picture, however that is spelt."""
    if one.unsupported or other.unsupported:  # of which no images are made
        return one.unsupported == other.unsupported
    steps = [(_covered(config, by), by.interpolation, by.truncated) for by in (one, other)]
    return steps[0] == steps[1] and same_normalisation(config, one, other)


def same_normalisation(config: LeViTConfig, one: Preprocessing, other: Preprocessing) -> bool:
    """Whether all of a network's channels have the same mean and standard deviation by both."""
    means, stds = (
        [_of_each(values, config) for values in pair]
        for pair in ((one.mean, other.mean), (one.std, other.std))
    )
    # an average of colours, and the number it was written down as, differ in the last bit
    return all(
        len(ours) == len(theirs) and np.allclose(ours, theirs, rtol=1e-9, atol=0)
        for ours, theirs in (means, stds)
    )


def _of_each(values: tuple[float, ...], config: LeViTConfig) -> tuple[float, ...]:
    """One number for each channel, where there is one for all, or colours for grey."""
    if config.in_channels == 1:
        return (sum(values) / len(values),)
    return values * config.in_channels if len(values) == 1 else values


def require_pictures(config: LeViTConfig, preprocessing: Preprocessing) -> None:
    """Raise UsageError where ``why_no_pictures`` has a reason."""
    if reason := why_no_pictures(config, preprocessing):
        raise UsageError(f"--images was given, but {reason}. Leave the option out.")


def why_no_pictures(config: LeViTConfig, preprocessing: Preprocessing) -> str:
    """Why a network's images are made of no pictures, or in another way; empty where they are."""
    if config.in_channels not in (1, 3):
        return (
            f"the network's images have {config.in_channels} channels, where pictures have one, "
            "for grey, or three, for colours"
        )
    if preprocessing.unsupported:
        return (
            f"{preprocessing.unsupported}. Expected pictures to be resized in proportion, cropped "
            "in the middle, scaled to 0..1 and normalised"
        )
    if config.in_channels == 3 and {len(preprocessing.mean), len(preprocessing.std)} - {1, 3}:
        return (
            f"its config states {len(preprocessing.mean)} means and {len(preprocessing.std)} "
            "standard deviations, where pictures have three channels"
        )
    return ""


_DEPTHS = "Expected whole numbers of 8 bits, or of 16, from 0 to 65535"


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture in a mode that Pillow turns into grey or colours without loss of its meaning."""
    if picture.mode in ("P", "PA"):
        return picture.convert("RGBA")  # the palette's transparency has nowhere to go in RGB
    if picture.mode == "F":
        raise UnfitPictureError(
            f"its pixels are floating-point numbers, of no known range. {_DEPTHS}"
        )
    if picture.mode.startswith("I"):  # Pillow would cut off whatever is above 255
        pixels = np.asarray(picture)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UnfitPictureError(f"its pixels have more than 16 bits. {_DEPTHS}")
        if 0 < pixels.max() <= 255:  # of 65535 that is black
            raise UnfitPictureError(
                "its pixels are stored in 16 bits or more and none is above 255, so that they may "
                f"be of 8 bits. {_DEPTHS}"
            )
        return Image.fromarray((pixels // 256).astype(np.uint8))
    return picture


def _covered(config: LeViTConfig, preprocessing: Preprocessing) -> Grid:
    """The (height, width) that a resized picture has at least."""
    height, width = config.image_size
    crop = preprocessing.crop_fraction
    return math.floor(height / crop), math.floor(width / crop)


def _covering(size: Grid, target: Grid) -> Grid:
    """The least (height, width) in proportion to ``size`` that covers ``target``.

    A square is covered by torchvision's Resize, which truncates, others by timm's ResizeKeepRatio,
    which rounds; a half of a pixel, to even, is to be the same half in floating-point numbers.
    """
    (height, width), (rows, columns) = size, target
    square = rows == columns
    if height * columns <= width * rows:
        return rows, int(rows * width / height) if square else round(width / (height / rows))
    return int(columns * height / width) if square else round(height / (width / columns)), columns
