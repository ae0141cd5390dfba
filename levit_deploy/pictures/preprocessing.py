"""What is said of how a picture becomes an input: by a config, by the user, or by convention."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from levit_deploy.errors import CheckpointError, UsageError

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's names


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and low <= value <= high


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to a picture of any size.

    It is resized, in proportion, to just cover the image size divided by ``crop_fraction``, and its
    middle cut out: half of the surplus is left out before it, rounded to even, as torchvision and
    timm do, or, where ``truncated``, down, as transformers does. ``interpolation`` is one of
    INTERPOLATIONS; ``mean`` and ``std``, of pixels from 0 to 1, are one for all channels or one for
    each. ``assumed`` says that no config states this: it is the convention of those who train such
    networks. ``unsupported`` is, in words, what a config states that is none of this. Raises
    ValueError for values that make no sense.
    """

    crop_fraction: float = 224 / 256
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    assumed: bool = True
    unsupported: str = ""
    truncated: bool = False

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
        crop = f"{self.crop_fraction} truncated" if self.truncated else f"{self.crop_fraction}"
        return f"crop {crop}, {self.interpolation}, mean {mean}, std {std}"

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

    Such as 'crop 0.9, bicubic, mean 0.5 0.5 0.5, std 0.5'; any of the parts, in any order, the crop
    perhaps 'crop 0.9 truncated'. Steps that a config states and that are none of these are
    forgotten only where all four are given.
    Raises UsageError for words or values that make no sense.
    """
    found: dict[str, Any] = {}
    try:
        for part in filter(None, map(str.strip, text.split(","))):
            word, *numbers = part.split()
            stated: dict[str, Any]
            if word in INTERPOLATIONS and not numbers:
                stated = {"interpolation": word}
            elif word == "crop" and numbers and numbers[1:] in ([], ["truncated"]):
                stated = {"crop_fraction": float(numbers[0]), "truncated": len(numbers) == 2}
            elif word in ("mean", "std") and numbers:
                stated = {word: tuple(map(float, numbers))}
            else:
                raise ValueError(f"{part!r} is no part of it")
            if stated.keys() & found.keys():
                raise ValueError(f"{part!r} says again what was said")
            found |= stated
        if not found:
            raise ValueError("it says nothing")
        unsupported = "" if len(found) == 5 else usual.unsupported
        return dataclasses.replace(usual, **found, unsupported=unsupported, assumed=False)
    except ValueError as error:
        raise UsageError(
            f"--preprocessing {text!r} cannot be understood: {error}. Expected parts such as "
            f'"{Preprocessing()}", the interpolation being one of {", ".join(INTERPOLATIONS)}.'
        ) from error
