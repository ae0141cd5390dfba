"""How a picture becomes an input: resized, cropped, scaled to 0..1 and normalised.

In a network's training and evaluation code these are torchvision's Resize, CenterCrop, ToTensor and
Normalize on a Pillow picture (``datasets.py`` of the official code, timm's
``transforms_imagenet_eval``, transformers' ``LevitImageProcessor``).
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from levit_deploy.config import Grid, LeViTConfig
from levit_deploy.errors import CheckpointError, UsageError

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's names
MAX_RESIZED_PIXELS = 1 << 26  # 200 MB in colours; a photo takes less than one


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and low <= value <= high


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture of any size.

    It is resized, in proportion, to just cover the image size divided by ``crop_fraction``, and its
    middle cut out. ``interpolation`` is one of INTERPOLATIONS; ``mean`` and ``std``, of pixels from
    0 to 1, are one for all channels or one for each. ``assumed`` says that no config states this:
    it is the convention of those who train such networks. ``unsupported`` is, in words, what a
    config states that is none of this. Raises ValueError for values that make no sense.
    """

    crop_fraction: float = 224 / 256
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    assumed: bool = True
    unsupported: str = ""

    def __post_init__(self) -> None:
        if not _within(self.crop_fraction, 0.1, 1):
            raise ValueError(f"the crop is {self.crop_fraction!r} of a side, not from 0.1 to 1")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"the interpolation is {self.interpolation!r}, not one of "
                f"{', '.join(INTERPOLATIONS)}"
            )
        for name, low in (("mean", 0.0), ("std", 0.001)):
            values = getattr(self, name)
            if not (
                isinstance(values, tuple)
                and values
                and all(_within(value, low, 1) for value in values)
            ):
                raise ValueError(
                    f"the {name} is {values!r}, not numbers from {low:g} to 1, as pixels "
                    "from 0 to 1 have"
                )

    def __str__(self) -> str:
        mean, std = (" ".join(map(str, values)) for values in (self.mean, self.std))
        return f"crop {self.crop_fraction:g}, {self.interpolation}, mean {mean}, std {std}"

    def to_json(self) -> str:
        """Serialise to one line of JSON with sorted keys, the same bytes every time."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """Read ``to_json``'s text back; ValueError, TypeError or KeyError where it is none."""
        fields = json.loads(text)
        fields["mean"], fields["std"] = tuple(fields["mean"]), tuple(fields["std"])
        return cls(**fields)


IMAGENET = Preprocessing()


def stated(
    usual: Preprocessing, source: str, *, unsupported: str = "", **fields: Any
) -> Preprocessing:
    """What a config states of pictures, the rest as usual; ``usual`` itself where it is silent.

    ``source`` is the config's file name; ``fields`` are those of ``Preprocessing`` as they stand
    there, None where they do not. Raises CheckpointError for values that make no sense.
    """
    found: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
        if value is not None
    }
    if not found and not unsupported:
        return usual
    try:
        return dataclasses.replace(usual, **found, unsupported=unsupported, assumed=False)
    except ValueError as error:
        raise CheckpointError(
            f"{source} says of pictures that {error}. Correct it, or give the weights file alone."
        ) from error


def told(text: str, usual: Preprocessing) -> Preprocessing:
    """What a user says of pictures, in the words in which it is printed, the rest as usual.

    Such as 'crop 0.9, bicubic, mean 0.5 0.5 0.5, std 0.5'; any of the parts, in any order. Steps
    that a config states and that are none of these are forgotten only where all four are given.
    Raises UsageError for words or values that make no sense.
    """
    found: dict[str, Any] = {}
    try:
        for part in filter(None, map(str.strip, text.split(","))):
            word, *numbers = part.split()
            stated: dict[str, Any]
            if word in INTERPOLATIONS and not numbers:
                stated = {"interpolation": word}
            elif word == "crop" and len(numbers) == 1:
                stated = {"crop_fraction": float(numbers[0])}
            elif word in ("mean", "std") and numbers:
                stated = {word: tuple(map(float, numbers))}
            else:
                raise ValueError(f"{part!r} is no part of it")
            if stated.keys() & found.keys():
                raise ValueError(f"{part!r} says again what was said")
            found |= stated
        if not found:
            raise ValueError("it says nothing")
        unsupported = "" if len(found) == 4 else usual.unsupported
        return dataclasses.replace(usual, **found, unsupported=unsupported, assumed=False)
    except ValueError as error:
        raise UsageError(
            f"--preprocessing {text!r} cannot be understood: {error}. Expected parts such as "
            f'"{Preprocessing()}", the interpolation being one of {", ".join(INTERPOLATIONS)}.'
        ) from error


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
