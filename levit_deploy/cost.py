"""Count the multiply-accumulates of a LeViT from its architecture."""

from __future__ import annotations

import itertools

from levit_deploy.config import LeViTConfig, subsampled


def count_macs(config: LeViTConfig) -> int:
    """Count the multiply-accumulates for one image, heads included.

    Counts the same operations as the official ``FLOPS_COUNTER`` (levit.py), so the figures compare
    with the published ones. These are convolutions, linear layers, both products of attention, and
    one operation per softmax entry. BatchNorm, activations, biases and pooling do not count.
    """
    macs, grid = 0, config.image_size
    for in_dim, out_dim in itertools.pairwise((config.in_channels, *config.stem_dims)):
        grid = subsampled(grid, 2)
        macs += grid[0] * grid[1] * 9 * in_dim * out_dim

    tokens = [height * width for height, width in config.resolutions]
    for stage, n in zip(config.stages, tokens, strict=True):
        h, k, d = stage.num_heads, stage.key_dim, stage.value_dim
        linear = stage.dim * h * (2 * k + d) + h * d * stage.dim + 2 * stage.dim * stage.mlp_dim
        macs += stage.depth * (n * linear + h * n * n * (k + 1 + d))

    for i, down in enumerate(config.downsamples):
        n, queries = tokens[i], tokens[i + 1]
        dim, out_dim = config.stages[i].dim, config.stages[i + 1].dim
        h, k, d = down.num_heads, down.key_dim, down.value_dim
        macs += n * dim * h * (k + d)
        macs += queries * (dim * h * k + h * d * out_dim + 2 * out_dim * down.mlp_dim)
        macs += h * queries * n * (k + 1 + d)

    heads = 2 if config.distillation else 1
    return macs + heads * config.stages[-1].dim * config.num_classes
