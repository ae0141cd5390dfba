"""The original network: what every artifact is held to."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from levit_deploy.model import LeViT
from levit_deploy.runtime.sessions import FloatArray


@dataclass(frozen=True)
class BlockOutput:
    """What one block computes, in float64 and in float32.

    A convolution of the stem gives (n, channels, height, width), a block of the trunk (n, tokens,
    channels), the head (n, classes). ``name`` is canonical.
    """

    name: str
    float64: npt.NDArray[np.float64]
    float32: FloatArray


class Reference:
    """The original network, in float64 and, as the unit of error, in float32."""

    def __init__(self, model: LeViT) -> None:
        self._float32 = model
        self._float64 = copy.deepcopy(model).double()

    def logits(self, images: FloatArray) -> npt.NDArray[np.float64]:
        """float32 (n, channels, height, width) -> float64 (n, classes)."""
        return np.concatenate(
            [_run(self._float64, part.astype(np.float64)) for part in _chunks(images)]
        )

    def float32_logits(self, images: FloatArray) -> FloatArray:
        """float32 (n, channels, height, width) -> float32 (n, classes)."""
        return np.concatenate([_run(self._float32, part) for part in _chunks(images)])

    def draws(self, images: FloatArray, twins: int) -> Iterator[FloatArray]:
        """``float32_logits`` of the original, and then of so many twins of it.

        A twin has every weight moved by at most one float32 step, as folding moves them, which
        rounds each once. So its error is what a correct artifact's is: another draw.
        """
        yield self.float32_logits(images)
        for seed in range(twins):
            twin = _twin(self._float64, seed)
            yield np.concatenate([_run(twin, part) for part in _chunks(images)])

    def blocks(self, images: FloatArray) -> list[BlockOutput]:
        """What every block computes of float32 (n, channels, height, width), in their order."""
        double = _run_blocks(self._float64, images.astype(np.float64))
        single = _run_blocks(self._float32, images)
        return [BlockOutput(name, double[name], single[name]) for name in double]


def _chunks(images: FloatArray, size: int = 8) -> list[FloatArray]:
    """A few images at a time: in float64, activations take twice the memory they usually do."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def _twin(model: LeViT, seed: int) -> LeViT:
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            if tensor.is_floating_point():
                step = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 2 - 1
                tensor.mul_(1 + step * 2.0**-24)
    return twin.float()


def _run(model: LeViT, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(images)).numpy())


def _run_blocks(model: LeViT, images: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    computed: dict[str, npt.NDArray[Any]] = {}

    def keep(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, _given: object, value: Tensor) -> None:
            computed[name] = value.numpy()

        return module.register_forward_hook(hook)

    # in the stem, every second module is an activation
    stem = list(model.patch_embed.named_children())[::2]
    hooks = [keep(f"patch_embed.{name}", module) for name, module in stem]
    hooks += [keep(f"blocks.{name}", block) for name, block in model.blocks.named_children()]
    hooks.append(keep("head", model))
    try:
        _run(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    return computed
