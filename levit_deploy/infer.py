"""Read the architecture off the shapes of a checkpoint's tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from levit_deploy.config import Downsample, LeViTConfig, Stage, subsampled
from levit_deploy.errors import CheckpointError
from levit_deploy.model import offset_indices

Grid = tuple[int, int]
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Inferred:
    """An architecture, and in words what the tensors did not say and was assumed."""

    config: LeViTConfig
    assumed: tuple[str, ...]


def infer_config(
    state: State, *, activation: str | None = None, image_size: Grid | None = None
) -> Inferred:
    """Infer the config of a training-form state dict under canonical names.

    ``activation`` and ``image_size`` (height, width) say what the shapes cannot. Raises
    CheckpointError for a missing tensor, for shapes that fit no LeViT, and for an image size that
    contradicts them.
    """
    stem = _stem_dims(state)
    stages, downsamples, tokens, names = _trunk(state)
    grid = _first_grid(state, tokens[0], len(stem), image_size)

    assumed = ["BatchNorm eps 1e-05, which no checkpoint stores"]
    if activation is None:
        assumed.append("activation hardswish, as in every published official LeViT")
    if image_size is None:
        image_size = (grid[0] * 2 ** len(stem), grid[1] * 2 ** len(stem))
        assumed.append(
            f"image size {image_size[0]}x{image_size[1]}, {2 ** len(stem)} times the "
            f"{grid[0]}x{grid[1]} token grid"
        )
    for i, next_tokens in enumerate(tokens[1:]):
        strides = _strides(grid, next_tokens, f"stage {i + 1}")
        idxs = state.get(f"{names[i]}.attention_bias_idxs")
        if idxs is not None:  # they tell; the strict loader refuses what fits none
            matching = [s for s in strides if torch.equal(idxs, offset_indices(grid, s))]
            strides = matching[:1] or strides[:1]
        if len(strides) > 1:
            assumed.append(
                f"stride {strides[0]} behind stage {i + 1}, as in every published LeViT; "
                f"{', '.join(map(str, strides[1:]))} would fit as well"
            )
        downsamples[i] = Downsample(**{**vars(downsamples[i]), "stride": strides[0]})
        grid = subsampled(grid, strides[0])
    try:
        config = LeViTConfig(
            image_size=image_size,
            in_channels=_shape(state, "patch_embed.0.c.weight", 4)[1],
            num_classes=_shape(state, "head.l.weight", 2)[0],
            stem_dims=stem,
            stages=tuple(stages),
            downsamples=tuple(downsamples),
            distillation=any(key.startswith("head_dist.") for key in state),
            activation=activation or "hardswish",
        )
    except ValueError as error:
        raise CheckpointError(f"The tensors' shapes fit no LeViT: {error}.") from error
    return Inferred(config, tuple(assumed))


def _shape(state: State, key: str, rank: int) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(
            f"The checkpoint has no {key}, which every LeViT needs. It may be incomplete, or "
            "another network's. Save the whole model.state_dict()."
        )
    shape = tuple(state[key].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(
            f"{key} has the shape {shape}. Expected {rank} dimensions, none of them empty."
        )
    return shape


def _stem_dims(state: State) -> tuple[int, ...]:
    dims = [_shape(state, "patch_embed.0.c.weight", 4)[0]]
    while (key := f"patch_embed.{2 * len(dims)}.c.weight") in state:  # activations between
        dims.append(_shape(state, key, 4)[0])
    return tuple(dims)


def _trunk(state: State) -> tuple[list[Stage], list[Downsample], list[int], list[str]]:
    """The stages, the downsamplings between them, each stage's tokens, the downsamplings' names."""
    stages: list[Stage] = []
    downsamples: list[Downsample] = []
    tokens: list[int] = []
    names: list[str] = []
    blocks = {int(key.split(".")[1]) for key in state if _is_block(key)}
    for i in range(max(blocks, default=-1) + 1):
        name = f"blocks.{i}"
        if f"{name}.m.qkv.c.weight" in state:
            stage, area = _attention(state, f"{name}.m", _mlp_dim(state, i + 1))
            if len(stages) == len(downsamples):
                stages.append(stage)
                tokens.append(area)
            else:
                first = stages[-1]
                stages[-1] = Stage(**{**vars(first), "depth": first.depth + 1})
        elif f"{name}.kv.c.weight" in state:
            if len(stages) == len(downsamples):
                raise CheckpointError(
                    f"{name} subsamples, but no attention block stands before it. Expected at "
                    "least one in every stage."
                )
            downsamples.append(_downsample(state, name, _mlp_dim(state, i + 1)))
            names.append(name)
        elif not _mlp_dim(state, i):
            raise CheckpointError(
                f"{name} is neither an attention block, nor a subsampling, nor an MLP: the "
                f"checkpoint has none of {name}.m.qkv.c.weight, {name}.kv.c.weight and "
                f"{name}.m.0.c.weight. Save the whole model.state_dict()."
            )
    if not stages or len(stages) == len(downsamples):
        raise CheckpointError(
            f"The checkpoint has {len(stages)} stages and {len(downsamples)} subsamplings. "
            "Expected attention blocks (blocks.0.m.qkv.c.weight, ...) first and last."
        )
    return stages, downsamples, tokens, names


def _is_block(key: str) -> bool:
    parts = key.split(".")
    return (
        parts[0] == "blocks" and len(parts) > 2 and re.fullmatch("[0-9]{1,4}", parts[1]) is not None
    )


def _mlp_dim(state: State, block: int) -> int:
    """The hidden width of a block that is an MLP, 0 where it is none."""
    key = f"blocks.{block}.m.0.c.weight"
    return _shape(state, key, 2)[0] if key in state else 0


def _attention(state: State, name: str, mlp_dim: int) -> tuple[Stage, int]:
    """A stage of depth 1 and its number of tokens, from its first attention block."""
    heads, tokens = _shape(state, f"{name}.attention_biases", 2)
    rows, dim = _shape(state, f"{name}.qkv.c.weight", 2)
    values = _shape(state, f"{name}.proj.1.c.weight", 2)[1]
    key_dim = _per_head(rows - values, 2 * heads, f"{name}.qkv", heads)
    value_dim = _per_head(values, heads, f"{name}.proj.1", heads)
    return Stage(dim, 1, heads, key_dim, value_dim, mlp_dim), tokens


def _downsample(state: State, name: str, mlp_dim: int) -> Downsample:
    heads = _shape(state, f"{name}.attention_biases", 2)[0]
    key_dim = _per_head(_shape(state, f"{name}.q.1.c.weight", 2)[0], heads, f"{name}.q.1", heads)
    values = _shape(state, f"{name}.proj.1.c.weight", 2)[1]
    value_dim = _per_head(values, heads, f"{name}.proj.1", heads)
    return Downsample(heads, key_dim, value_dim, mlp_dim)


def _per_head(width: int, parts: int, layer: str, heads: int) -> int:
    if width < parts or width % parts:
        raise CheckpointError(
            f"{layer}.c.weight does not divide among the {heads} heads that the attention_biases "
            "beside it have. The tensors come from different networks."
        )
    return width // parts


def _first_grid(state: State, tokens: int, stem_depth: int, image_size: Grid | None) -> Grid:
    """The token grid behind the stem."""
    if image_size is not None:
        grid = image_size
        for _ in range(stem_depth):
            grid = subsampled(grid, 2)
        if grid[0] * grid[1] != tokens:
            raise CheckpointError(
                f"An image of {image_size[0]}x{image_size[1]} has {grid[0]}x{grid[1]} tokens "
                f"behind the stem, but the first attention bias is for {tokens}. Give the size the "
                "model was trained at."
            )
        return grid
    idxs = state.get("blocks.0.m.attention_bias_idxs")
    if idxs is not None and tuple(idxs.shape) == (tokens, tokens):
        return _grid_of_indices(idxs)
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise CheckpointError(
            f"The first attention bias is for {tokens} tokens, which is no square grid, and the "
            "checkpoint does not tell its sides. Give the image size with --image-size HxW."
        )
    return side, side


def _grid_of_indices(idxs: Tensor) -> Grid:
    """The sides of a grid from its offset indices |dy| * W + |dx|, token by token in rows.

    Seen from the second token, the first of the next row is the first whose |dx| is 1 again with
    |dy| above 0; its index is W + 1.
    """
    tokens = idxs.shape[0]
    if tokens == 1:
        return 1, 1
    second: list[int] = idxs[1].tolist()
    width = next((j for j in range(1, tokens) if second[j] == j + 1), tokens)
    return tokens // width, width


def _strides(grid: Grid, next_tokens: int, where: str) -> list[int]:
    """The strides that leave ``next_tokens`` of a grid; first 2, the published one, if it does."""
    if grid == (1, 1):
        return [2]  # of a single token, every stride keeps that token
    strides = [
        stride
        for stride in (2, 1, *range(3, max(grid) + 1))
        if math.prod(subsampled(grid, stride)) == next_tokens
    ]
    if not strides:
        raise CheckpointError(
            f"No stride leads from the {grid[0]}x{grid[1]} tokens of {where} to the {next_tokens} "
            "of the next one. The tensors come from different networks."
        )
    return strides
