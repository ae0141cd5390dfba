"""Give the feature map of every stage in place of the logits, for detectors and segmenters.

A stage's map is the output of its last block. The subsampling behind it belongs to the next stage,
as in timm's ``features_only`` (``feature_info`` in timm/models/levit.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from levit_deploy.config import Grid
from levit_deploy.model import Attention, AttentionSubsample, LeViT, Residual
from levit_deploy.passes.heads import drop_heads
from levit_deploy.passes.pool_early import PooledResidual


class ToMap(nn.Module):
    """Tokens as the map they came from: (B, N, C) -> (B, C, H, W)."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        channels_first = x.transpose(1, 2).contiguous()  # as C++ reads it
        return channels_first.view(-1, channels_first.shape[1], *self.grid)


class StageMaps(nn.Sequential):
    """The blocks under their names, and a ``ToMap`` behind each stage: stage1, stage2 and so on.

    (B, N, C) -> one (B, C, H, W) a stage.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for block in self:
            if isinstance(block, ToMap):
                maps.append(block(x))
            else:
                x = block(x)
        return tuple(maps)


def stage_maps(model: LeViT) -> LeViT:
    """Drop pooling and heads, and return the map of each stage.

    A last block that pools early is put back: that is exact, too.
    """
    model = drop_heads(model)
    blocks = StageMaps()
    grid, stages = (0, 0), 0
    for name, block in model.blocks.named_children():
        if isinstance(block, AttentionSubsample):
            stages += 1
            blocks.add_module(f"stage{stages}", ToMap(grid))
        elif isinstance(block, Residual) and isinstance(block.m, Attention):
            grid = block.m.grid
        elif isinstance(block, PooledResidual):
            block = Residual(block.m)
        blocks.add_module(name, block)
    blocks.add_module(f"stage{stages + 1}", ToMap(grid))
    model.blocks, model.pool = blocks, nn.Identity()
    return model
