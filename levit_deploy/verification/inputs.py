"""The images a proof runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from levit_deploy.config import LeViTConfig
from levit_deploy.runtime.sessions import FloatArray

LARGE = 10.0  # times normal noise


@dataclass(frozen=True)
class Case:
    """One kind of input.

    ``draw(n)`` gives n images, float32 (n, channels, height, width), normalised as the model
    expects, and the same ones every time; ``sizes`` are the numbers of images to try in turn.
    ``quieter`` gives the same kind with half the contrast, for originals that overflow on it.
    """

    name: str
    draw: Callable[[int], FloatArray]
    sizes: tuple[int, ...]
    quieter: Callable[[], Case] | None = None


def standard_cases(config: LeViTConfig, seed: int) -> tuple[Case, ...]:
    """Inputs on which every artifact must agree with its original.

    Normal noise is what a normalised picture looks like to the first layer. Zeros and constants
    leave little but biases and borders to compute with; single bright pixels leave each token to
    itself, so that one in the wrong place shows. Large values drive every activation into its
    linear or its zero part and every softmax to one key, tiny ones leave every activation where it
    bends. After the first, "zeros" are almost zero, so that there can be more than one.
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


def image_case(name: str, images: FloatArray) -> Case:
    """Given images as a case: float32 (n, channels, height, width), already normalised."""
    return Case(name, lambda n: images[:n], (len(images),))
