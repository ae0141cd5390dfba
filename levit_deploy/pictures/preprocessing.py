"""The preprocessing of pictures: stated by a config, by the user, or by convention."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from levit_deploy.errors import CheckpointError, UsageError

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's names
RESIZES = ("cover", "stretch", "border")


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and low <= value <= high


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The steps that turn a picture of any size into an image.

    It is resized to the image size divided by ``crop_fraction``, and its middle is cut out.
    ``resize`` is one of RESIZES: 'cover' just covers that size in proportion, 'stretch' makes it
    that size, and 'border' fits into it in proportion, with a border in the mean colour around the
    picture if it is smaller than the image. Half of the surplus is left out before the middle,
    rounded to even as in torchvision and timm, or down if ``truncated``, as in transformers.
    ``interpolation`` is one of INTERPOLATIONS. ``mean`` and ``std`` are of pixels from 0 to 1, one
    for all channels or one for each. ``assumed`` means that no config states this: it is the
    convention for such networks. ``unsupported`` names, in words, any other step that a config
    states. Raises ValueError for values that make no sense.
    """

    crop_fraction: float = 224 / 256
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    assumed: bool = True
    unsupported: str = ""
    truncated: bool = False
    resize: str = "cover"

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"the resizing is {self.resize!r}, not one of {', '.join(RESIZES)}")
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
        return f"{self._crop()}, {self.interpolation}, mean {mean}, std {std}"

    def _crop(self) -> str:
        crop = f"crop {self.crop_fraction}" + " truncated" * self.truncated
        if self.resize == "cover":
            return crop
        whole = self.crop_fraction == 1 and not self.truncated
        return self.resize if whole else f"{crop}, {self.resize}"

    def to_json(self) -> str:
        """Serialise to one line of JSON with sorted keys, the same bytes every time."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """Read ``to_json``'s text back; ValueError, TypeError or KeyError if it is damaged."""
        fields = json.loads(text)
        fields["mean"], fields["std"] = tuple(fields["mean"]), tuple(fields["std"])
        return cls(**fields)


IMAGENET = Preprocessing()


def stated(
    usual: Preprocessing, source: str, *, unsupported: str = "", **fields: Any
) -> Preprocessing:
    """The preprocessing that a config states, the rest as usual; ``usual`` itself if it is silent.

    ``source`` is the config's file name. ``fields`` are those of ``Preprocessing`` as they stand
    there, None if they do not. Raises CheckpointError for values that make no sense.
    """
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
        if value is not None
    }
    if not given and not unsupported:
        return usual
    try:
        return dataclasses.replace(usual, **given, unsupported=unsupported, assumed=False)
    except ValueError as error:
        raise CheckpointError(
            f"{source} has a preprocessing that makes no sense: {error}. Correct it, or give the "
            "weights file alone."
        ) from error


def told(text: str, usual: Preprocessing) -> Preprocessing:
    """The preprocessing that a user states, in the words in which it is printed, the rest as usual.

    The words are such as 'crop 0.9, bicubic, mean 0.5 0.5 0.5, std 0.5'. Any of the parts may
    come, in any order, and the crop may be 'crop 0.9 truncated'. 'stretch' or 'border' beside the
    crop, or in its place for a crop of 1, resizes in that way. If all four are given, any other
    step that a config states is forgotten. Raises UsageError for words or values that make no
    sense.
    """
    fields: dict[str, Any] = {}
    try:
        for part in filter(None, map(str.strip, text.split(","))):
            word, *numbers = part.split()
            stated: dict[str, Any]
            if word in INTERPOLATIONS and not numbers:
                stated = {"interpolation": word}
            elif word == "crop" and numbers and numbers[1:] in ([], ["truncated"]):
                stated = {"crop_fraction": float(numbers[0]), "truncated": len(numbers) == 2}
            elif word in ("stretch", "border") and not numbers:
                stated = {"resize": word}
            elif word in ("mean", "std") and numbers:
                stated = {word: tuple(map(float, numbers))}
            else:
                raise ValueError(f"{part!r} is not one of its parts")
            if stated.keys() & fields.keys():
                raise ValueError(f"{part!r} is there twice")
            fields |= stated
        if not fields:
            raise ValueError("it is empty")
        if fields.keys() & {"crop_fraction", "resize"}:
            fields = {"crop_fraction": 1.0, "truncated": False, "resize": "cover"} | fields
        unsupported = "" if len(fields) == 6 else usual.unsupported
        return dataclasses.replace(usual, **fields, unsupported=unsupported, assumed=False)
    except ValueError as error:
        raise UsageError(
            f"--preprocessing {text!r} cannot be understood: {error}. Expected parts such as "
            f'"{Preprocessing()}". The interpolation is one of {", ".join(INTERPOLATIONS)}. '
            '"stretch" or "border" may stand for the crop.'
        ) from error
