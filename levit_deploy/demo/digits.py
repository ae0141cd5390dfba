"""The digits of the demo network: how a scan becomes an input, and the held-out scans.

The scans are the test part of the UCI "Optical Recognition of Handwritten Digits" data set
(Alpaydin & Kaynak, 1998, CC BY 4.0) as scikit-learn ships it: 8x8 pixels of 0 to 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

IMAGE_SIZE = 64
MEAN, STD = 0.305, 0.376  # of the training scans, scaled to 0..1
PREPROCESSING = f"crop 1, bilinear, mean {MEAN}, std {STD}"  # ``to_input``, in words
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Digits:
    """Inputs, float32 (n, 1, 64, 64), and their labels, int64 (n,)."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def to_input(scans: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Scale 8x8 scans up bilinearly and normalise: uint8 (n, 8, 8) -> float32 (n, 1, 64, 64)."""
    pixels = torch.from_numpy(scans[:, None].astype(np.float32) / 16)
    pixels = torch.nn.functional.interpolate(pixels, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
    images: npt.NDArray[np.float32] = ((pixels - MEAN) / STD).numpy()
    return images


def held_out() -> Digits:
    """The 360 scans that ``examples/train_digits.py`` kept away from the training."""
    scans, labels = _held_out_scans()
    return Digits(to_input(scans), labels)


def scan_files(n: int = 360, names: Sequence[str] = LABELS) -> dict[str, bytes]:
    """The first held-out scans as PNG, 8x8 grey, by path: each in the folder of its class."""
    scans, labels = _held_out_scans()
    return {
        f"{names[label]}/{i:03}.png": _png(scan)
        for i, (scan, label) in enumerate(zip(scans[:n], labels[:n], strict=True))
    }


def _png(scan: npt.NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.rint(scan * (255 / 16)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _held_out_scans() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    with resources.files(__package__).joinpath("held_out.npz").open("rb") as file:
        arrays = np.load(file)
        return arrays["scans"], arrays["labels"].astype(np.int64)
