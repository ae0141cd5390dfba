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
from levit_deploy.preprocessing import IMAGENET, Preprocessing

MAX_RESIZED_PIXELS = 1 << 26  # 200 MB in colours; a photo takes less than one


class UnfitPictureError(ValueError):
    """A whole picture that is of no use: what about it, and what was expected."""


def prepare(
    picture: Image.Image, config: LeViTConfig, preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """Turn a picture into what the network expects: float32 (channels, height, width).

    Raises what ``fit``, ``normalise`` and ``require_pictures`` do.
    """
    require_pictures(config, preprocessing)
    return normalise(fit(picture, config, preprocessing), config, preprocessing)


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
    covered = [math.floor(side / preprocessing.crop_fraction) for side in config.image_size]
    rows, columns = _covering((picture.height, picture.width), (covered[0], covered[1]))
    if rows * columns > MAX_RESIZED_PIXELS:
        raise UnfitPictureError(
            f"it is {picture.width} pixels wide and {picture.height} high, which resized would be "
            f"{columns} and {rows}. Expected sides more alike"
        )
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    picture = picture.resize((columns, rows), resample)
    top, left = round((rows - height) / 2), round((columns - width) / 2)
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
            f"Bytes cannot be normalised: {preprocessing.unsupported}, which is not known here. "
            f'State all that is to be done, as in --preprocessing "{IMAGENET}".'
        )
    found = []
    for values in (preprocessing.mean, preprocessing.std):
        if config.in_channels == 1:
            values = (sum(values) / len(values),)
        if len(values) not in (1, config.in_channels):
            raise UsageError(
                f"Bytes cannot be normalised: {len(preprocessing.mean)} means and "
                f"{len(preprocessing.std)} standard deviations are known, and the images have "
                f"{config.in_channels} channels. Expected one for all, or one for each. Give them, "
                'as in --preprocessing "mean 0.5, std 0.5".'
            )
        found.append(np.resize(np.array(values, np.float64), config.in_channels))
    return found[0], found[1]


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


_DEPTHS = "Expected whole numbers of 8 or 16 bits"


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
        return Image.fromarray((pixels // 256).astype(np.uint8))
    return picture


def _covering(size: Grid, target: Grid) -> Grid:
    """The least (height, width) in proportion to ``size`` that covers ``target``."""
    (height, width), (rows, columns) = size, target
    # a square is covered by torchvision's Resize, which truncates; timm's own, for others, rounds
    whole = int if rows == columns else round
    if height * columns <= width * rows:
        return rows, whole(rows * width / height)
    return whole(columns * height / width), columns
