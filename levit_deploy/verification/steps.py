"""The original network, cut into the blocks whose outputs an artifact is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from levit_deploy.choices import Output
from levit_deploy.model import LeViT
from levit_deploy.passes.stage_maps import ToMap
from levit_deploy.verification.budget import LEAST


@dataclass(frozen=True)
class Step:
    """One block: a module from the output of the block before it to its own.

    A convolution of the stem gives (n, channels, height, width), a block of the trunk (n, tokens,
    channels), the head (n, classes). ``name`` is canonical, or the name of an output that is not
    the head's. ``passed_on`` is False for a feature map: the next block takes what it took.
    """

    name: str
    module: nn.Module
    passed_on: bool = True


class Head(nn.Module):
    """Pooling and the heads: (n, tokens, channels), or (n, channels) if pooled, -> (n, classes)."""

    def __init__(self, model: LeViT) -> None:
        super().__init__()
        self.pool, self.head, self.head_dist = model.pool, model.head, model.head_dist

    def forward(self, x: Tensor) -> Tensor:
        features = self.pool(x) if x.dim() == 3 else x
        logits: Tensor = self.head(features)
        return logits if self.head_dist is None else (logits + self.head_dist(features)) / 2


class LogProbabilities(nn.Module):
    """The logarithms of a softmax in float32, or in float64: (n, classes) -> (n, classes)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.dtype == torch.float64 else x.float()
        return x.softmax(1).clamp(min=LEAST).log()


def steps(model: LeViT, output: Output = "logits") -> list[Step]:
    """The blocks of a network in order, which share its modules.

    The head, or the features, come last. A feature map comes behind the blocks of its stage.
    """
    layers = list(model.patch_embed.named_children())
    cut = []
    for i in range(0, len(layers), 2):  # every second one is an activation
        module = nn.Sequential(*(layer for _, layer in layers[max(i - 1, 0) : i + 1]))
        cut.append(Step(f"patch_embed.{layers[i][0]}", module))
    before: list[nn.Module] = [model.to_tokens]
    for name, block in model.blocks.named_children():
        if isinstance(block, ToMap):
            cut.append(Step(name, block, passed_on=False))
        else:
            cut.append(Step(f"blocks.{name}", nn.Sequential(*before, block)))
            before = []
    if output == "features":
        cut.append(Step("features", Head(model)))
    elif output != "feature-maps":
        end = [LogProbabilities()] if output == "probabilities" else []
        cut.append(Step("head", nn.Sequential(Head(model), *end)))
    return cut


def sizes(steps: Sequence[Step], image: npt.NDArray[np.float32]) -> set[int]:
    """The numbers in the outputs of an image, (1, channels, height, width), and in pooled ones."""
    x, found = torch.from_numpy(image), {image.size}
    with torch.inference_mode():
        for step in steps:
            out = step.module(x.to(next((p.dtype for p in step.module.parameters()), x.dtype)))
            found |= {out.numel(), out.shape[-1]} if out.dim() == 3 else {out.numel()}
            x = out if step.passed_on else x
    return found
