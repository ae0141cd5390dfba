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


class UnfitPictureError(ValueError):
    """A whole picture that is of no use: what about it, and what was expected."""


def prepare(
    picture: Image.Image, config: LeViTConfig, preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """Turn a picture into what the network expects: float32 (channels, height, width).

    Raises UsageError where no picture can be prepared for the network, and as ``fit`` does.
    """
    if reason := why_no_pictures(config, preprocessing):
        raise UsageError(f"--images was given, but {reason}. Leave the option out.")
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
    return np.asarray(picture).reshape(height, width, config.in_channels)


def normalise(
    pixels: npt.NDArray[np.uint8], config: LeViTConfig, preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """Scale to 0..1 and normalise: uint8 (..., height, width, channels) -> channels first."""
    mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
    if config.in_channels == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    scaled = pixels.astype(np.float32) / 255
    return np.ascontiguousarray(np.moveaxis((scaled - mean) / std, -1, -3))


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
