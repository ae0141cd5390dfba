"""The images a proof runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.checkpoint import Checkpoint
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import UsageError
from levit_deploy.interface import Interface
from levit_deploy.pictures.files import find_pictures, read_pictures
from levit_deploy.pictures.transform import Transform

LARGE = 10.0  # times normal noise
MOST_PICTURES = 64  # enough for steady figures, and seconds for the largest LeViT in float64


@dataclass(frozen=True)
class Case:
    """One kind of input.

    ``draw(n)`` gives n images, the same ones every time: float32 (n, channels, height, width),
    normalised as the model expects, or uint8 (n, height, width, channels). ``as_taken`` normalises
    the latter for an artifact that does not. ``sizes`` are the numbers of images to try in turn.
    ``quieter`` gives the same kind with half the contrast, for originals that overflow on it.
    """

    name: str
    draw: Callable[[int], Images]
    sizes: tuple[int, ...]
    quieter: Callable[[], Case] | None = None


def standard_cases(config: LeViTConfig, seed: int) -> tuple[Case, ...]:
    """Inputs on which every artifact must agree with its original.

    Normal noise looks like a normalised picture to the first layer. Zeros and constants leave
    little but biases and borders to compute with. Single bright pixels leave each token to itself,
    so that one in the wrong place shows. Large values drive every activation into its linear or
    zero part, and every softmax to one key. Tiny values keep every activation where it bends.
    After the first, "zeros" are almost zero, so that there can be more than one.
    """
    shape = (config.in_channels, *config.image_size)

    def noise(n: int) -> FloatArray:
        return np.random.default_rng(seed).standard_normal((n, *shape), dtype=np.float32)

    def zeros(n: int) -> FloatArray:
        images = noise(n) * np.float32(1e-3)
        images[0] = 0
        return images

    def constant(n: int) -> FloatArray:
        levels = np.random.default_rng(seed).uniform(-2.5, 2.5, (n, 1, 1, 1)).astype(np.float32)
        return np.ascontiguousarray(np.broadcast_to(levels, (n, *shape)))

    def pixels(n: int) -> FloatArray:
        rng, images = np.random.default_rng(seed), np.zeros((n, *shape), np.float32)
        _, height, width = shape
        for image in images:
            image[:, rng.integers(height), rng.integers(width)] = rng.uniform(3, 30)
        return images

    def tiny(n: int) -> FloatArray:
        powers = np.random.default_rng(seed).uniform(-8, -1, (n, 1, 1, 1))
        return noise(n) * (10.0**powers).astype(np.float32)

    def large(times: float) -> Case:
        return Case(
            "large" if times == LARGE else f"large x{times:g}",
            lambda n: np.float32(times) * noise(n),
            (4, 32, 64),
            (lambda: large(times / 2)) if times > 2 else None,  # less would be normal noise
        )

    return (
        Case("normal", noise, (8, 32, 64)),
        Case("zeros", zeros, (2, 32, 64)),
        Case("constant", constant, (4, 32, 64)),
        Case("pixels", pixels, (4, 32, 64)),
        large(LARGE),
        Case("tiny", tiny, (4, 32, 64)),
    )


def pixel_cases(transform: Transform, seed: int) -> tuple[Case, ...]:
    """The same for an artifact that takes bytes, as far as bytes allow.

    The mean colour takes the place of zeros, to the nearest byte. Constants begin with black and
    white, the farthest from the padding of the borders. The loudest noise has every byte at 0 or
    255. There are no tiny values: "zeros" differ by the least step of a byte already.
    """
    shape = (*transform.image_size, transform.channels)
    mean, std = transform.statistics()

    def normal(n: int) -> Images:
        noise = np.random.default_rng(seed).standard_normal((n, *shape))
        return _bytes(255 * (mean + std * noise))

    def zeros(n: int) -> Images:
        steps = np.random.default_rng(seed).integers(-1, 2, (n, *shape))
        steps[0] = 0
        return _bytes(np.rint(255 * mean) + steps)

    def constant(n: int) -> Images:
        levels = np.random.default_rng(seed).integers(0, 256, (n, 1, 1, 1))
        levels[:2, 0, 0, 0] = (0, 255)[:n]
        return _bytes(np.broadcast_to(levels, (n, *shape)))

    def pixels(n: int) -> Images:
        rng, images = np.random.default_rng(seed), _bytes(np.tile(255 * mean, (n, *shape[:2], 1)))
        for image in images:
            image[rng.integers(shape[0]), rng.integers(shape[1])] = 255
        return images

    def extreme(n: int) -> Images:
        return _bytes(255 * np.random.default_rng(seed).integers(0, 2, (n, *shape)))

    return (
        Case("normal", normal, (8, 32, 64)),
        Case("zeros", zeros, (2, 32, 64)),
        Case("constant", constant, (4, 32, 64)),
        Case("pixels", pixels, (4, 32, 64)),
        Case("extreme", extreme, (4, 32, 64)),
    )


def _bytes(numbers: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = np.rint(numbers).clip(0, 255).astype(np.uint8)
    return pixels


def as_taken(case: Case, interface: Interface, transform: Transform) -> Case:
    """A case for an artifact of this interface: bytes are normalised for one that takes images.

    Raises UsageError for normalised images if the artifact takes bytes.
    """
    dtype = case.draw(1).dtype
    if dtype == interface.input:
        return case
    if dtype != np.uint8:
        raise UsageError(
            f"The inputs {case.name!r} are {dtype}, and the artifact takes {interface.input}. "
            "Expected bytes (n, height, width, channels)."
        )
    return replace(case, draw=lambda n: transform.normalise(case.draw(n)))


def image_case(name: str, images: Images) -> Case:
    """Given images as a case: float32 (n, channels, height, width), already normalised.

    Or uint8 (n, height, width, channels).
    """
    return Case(name, lambda n: images[:n], (len(images),))


def picture_case(checkpoint: Checkpoint, folder: str | Path) -> Case:
    """The pictures below a folder, as a kind of input that a proof uses.

    They are resized and cropped for the network but still bytes: the proof normalises them for an
    artifact that does not. Of more than MOST_PICTURES, that many are taken, evenly spread over
    their sorted names. Raises InputError if there is none or one cannot be read, UsageError if the
    network does not take pictures.
    """
    paths = find_pictures(Path(folder))
    taken = min(len(paths), MOST_PICTURES)
    chosen = [paths[i * len(paths) // taken] for i in range(taken)]
    images = read_pictures(chosen, checkpoint.transform, "uint8")

    def draw(n: int) -> Images:
        # few pictures leave much to chance: the same ones follow, darker and darker
        darker = np.arange(-(-n // taken)).reshape(-1, 1, 1, 1, 1)
        copies = (images * (1 - darker / 256)).round().astype(np.uint8)
        return copies.reshape(-1, *images.shape[1:])[:n]

    return Case("pictures", draw, (taken, *(n for n in (32, 64) if n > taken)))
