"""How a picture becomes an input: resized, cropped, scaled to 0..1 and normalised.

In a network's training and evaluation code these are torchvision's Resize, CenterCrop, ToTensor and
Normalize on a Pillow picture (``datasets.py`` of the official code, timm's
``transforms_imagenet_eval``, also by its crop modes squash and border, transformers'
``LevitImageProcessor``).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from levit_deploy.config import Grid
from levit_deploy.errors import UsageError
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing

MAX_RESIZED_PIXELS = 1 << 26  # 200 MB in colours; a photo takes less than one


class UnfitPictureError(ValueError):
    """A whole picture that cannot be used: the reason, and the expected."""


@dataclass(frozen=True)
class Transform:
    """How a picture becomes an input of one network: resized, cropped and normalised.

    The network takes images of ``image_size`` (height, width) with so many ``channels``.
    """

    image_size: Grid
    channels: int
    preprocessing: Preprocessing

    def fit(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and crop a picture to the network's image size: uint8 (height, width, channels).

        It is rotated by its EXIF tag; transparency is ignored, as in the training of such networks.
        Raises UnfitPictureError if this picture cannot be used.
        """
        picture = _eight_bits(ImageOps.exif_transpose(picture))
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        cropped = self._cropped(self._resized(picture))
        return np.asarray(cropped, np.uint8).reshape(*self.image_size, self.channels)

    def _resized(self, picture: Image.Image) -> Image.Image:
        size, target = (picture.height, picture.width), self._target(self.preprocessing)
        rows, columns = _SIZES[self.preprocessing.resize](size, target)
        if not 0 < rows * columns <= MAX_RESIZED_PIXELS:
            raise UnfitPictureError(
                f"it is {picture.width} pixels wide and {picture.height} high, which resized would "
                f"be {columns} and {rows}. Expected sides more alike"
            )
        resample = Image.Resampling[self.preprocessing.interpolation.upper()]
        return picture.resize((columns, rows), resample)

    def _target(self, preprocessing: Preprocessing) -> Grid:
        """The (height, width) that a picture is resized to cover, to be, or to fit into."""
        height, width = self.image_size
        crop = preprocessing.crop_fraction
        return math.floor(height / crop), math.floor(width / crop)

    def _cropped(self, picture: Image.Image) -> Image.Image:
        height, width = self.image_size
        half = math.floor if self.preprocessing.truncated else round
        rows, columns = picture.height - height, picture.width - width
        if self.preprocessing.resize == "border":
            # less than half of a border, in whole pixels, comes before the picture
            top, left = (half(n / 2) if n >= 0 else -(-n // 2) for n in (rows, columns))
            canvas = Image.new(picture.mode, (width, height), self._border_colour())
            canvas.paste(picture, (-left, -top))
            return canvas
        top, left = half(rows / 2), half(columns / 2)
        return picture.crop((left, top, left + width, top + height))

    def _border_colour(self) -> tuple[int, ...]:
        """The mean of each channel, as a byte."""
        return tuple(round(255 * mean) for mean in self._of_each(self.preprocessing.mean))

    def normalise(
        self, pixels: npt.NDArray[np.generic], dtype: npt.DTypeLike = np.float32
    ) -> npt.NDArray[Any]:
        """Scale to 0..1 and normalise: uint8 (..., H, W, channels) -> (..., channels, H, W).

        It computes in ``dtype``, a float. Raises UsageError as ``statistics`` does.
        """
        mean, std = (np.array(x, dtype) for x in self.statistics())
        normalised = (pixels.astype(dtype) / 255 - mean) / std
        return np.ascontiguousarray(np.moveaxis(normalised, -1, -3))

    def statistics(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and standard deviation of each channel, of pixels from 0 to 1.

        Those of colours are averaged for grey. Raises UsageError if they are not known for each
        channel, or if a config states other steps.
        """
        how = self.preprocessing
        if how.unsupported:
            raise UsageError(
                f"Bytes cannot be normalised: {how.unsupported}, which is not done here. "
                f'State every step, as in --preprocessing "{IMAGENET}".'
            )
        mean, std = self._of_each(how.mean), self._of_each(how.std)
        if {len(mean), len(std)} != {self.channels}:
            raise UsageError(
                f"Bytes cannot be normalised: {len(how.mean)} means and {len(how.std)} standard "
                f"deviations are known, and the images have {self.channels} channels. Expected one "
                "for all, or one for each. Give them, as in --preprocessing "
                '"mean 0.5, std 0.5".'
            )
        return np.array(mean, np.float64), np.array(std, np.float64)

    def same_images(self, other: Preprocessing) -> bool:
        """Whether every picture becomes the same image by another preprocessing, however spelt."""
        own = self.preprocessing
        if own.unsupported or other.unsupported:  # no images are made by such
            return own.unsupported == other.unsupported
        steps = [
            (how.resize, self._target(how), how.interpolation, how.truncated)
            for how in (own, other)
        ]
        return steps[0] == steps[1] and self.same_normalisation(other)

    def same_normalisation(self, other: Preprocessing) -> bool:
        """Whether another preprocessing has the same mean and deviation for every channel."""
        own = self.preprocessing
        # an average of colours, and the number it was written down as, differ in the last bit
        return all(
            len(self._of_each(one)) == len(self._of_each(two))
            and np.allclose(self._of_each(one), self._of_each(two), rtol=1e-9, atol=0)
            for one, two in ((own.mean, other.mean), (own.std, other.std))
        )

    def _of_each(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """One number for each channel, if there is one for all, or colours for grey."""
        if self.channels == 1:
            return (sum(values) / len(values),)
        return values * self.channels if len(values) == 1 else values

    def require_pictures(self) -> None:
        """Raise UsageError if ``why_no_pictures`` has a reason."""
        if self.why_no_pictures:
            raise UsageError(
                f"--images was given, but {self.why_no_pictures}. Leave the option out."
            )

    @property
    def why_no_pictures(self) -> str:
        """Why no picture can become an input of the network; empty if pictures can."""
        how = self.preprocessing
        if self.channels not in (1, 3):
            return (
                f"the network's images have {self.channels} channels, and pictures have one, for "
                "grey, or three, for colours"
            )
        if how.unsupported:
            return (
                f"{how.unsupported}. Expected pictures to be resized, cropped in the middle, "
                "scaled to 0..1 and normalised"
            )
        if self.channels == 3 and {len(how.mean), len(how.std)} - {1, 3}:
            return (
                f"its config states {len(how.mean)} means and {len(how.std)} standard deviations, "
                "and pictures have three channels"
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


def _stretched(_size: Grid, target: Grid) -> Grid:
    return target


def _fitting(size: Grid, target: Grid) -> Grid:
    """The (height, width) in proportion to ``size`` that fits into ``target``, as timm rounds it.

    That is its ResizeKeepRatio by the longest side.
    """
    ratio = max(size[0] / target[0], size[1] / target[1])
    return round(size[0] / ratio), round(size[1] / ratio)


_SIZES = {"cover": _covering, "stretch": _stretched, "border": _fitting}  # of a resized picture
