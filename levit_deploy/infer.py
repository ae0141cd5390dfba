"""Read the architecture off the shapes of a checkpoint's tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from levit_deploy.config import (
    NORMS,
    TIMM_VARIANTS,
    Downsample,
    LeViTConfig,
    Stage,
    subsampled,
)
from levit_deploy.errors import CheckpointError
from levit_deploy.model import offset_indices

Grid = tuple[int, int]
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Known:
    """What tensors do not tell, and the code or the config that saved them does.

    None where they are silent. ``image_size`` (height, width) must fit the tensors;
    ``usual_image_size`` is taken where it does. ``attention_activation`` is also that of the
    subsamplings, ``stride`` theirs. ``averages_heads`` says that the code averages two heads when
    it evaluates.
    """

    activation: str | None = None
    stem_activation: str | None = None
    attention_activation: str | None = None
    bias_over_scale: bool = False
    averages_heads: bool = True
    stride: int | None = None
    image_size: Grid | None = None
    usual_image_size: Grid | None = None


@dataclass(frozen=True)
class Inferred:
    """An architecture, and in words what nobody said and was assumed."""

    config: LeViTConfig
    assumed: tuple[str, ...]


def infer_config(
    state: State,
    known: Known = Known(),
    *,
    activation: str | None = None,
    image_size: Grid | None = None,
) -> Inferred:
    """Infer the config of a training-form state dict under canonical names.

    ``activation`` and ``image_size`` (height, width) are the user's word. A size that does not fit
    the tensors, or that ``known`` or stored indices contradict, is not the one they were trained
    at and is left to the caller. Raises CheckpointError for a missing tensor and for shapes that
    fit no LeViT.
    """
    stem = _stem_dims(state)
    stages, downsamples, tokens, names = _trunk(state)
    trained_size, grid, told = _image_size(state, tokens[0], len(stem), known, image_size)
    assumed = []
    if not told:
        assumed.append(
            f"image size {trained_size[0]}x{trained_size[1]}, {2 ** len(stem)} times the "
            f"{grid[0]}x{grid[1]} token grid"
        )
    for i, next_tokens in enumerate(tokens[1:]):
        strides = _strides(grid, next_tokens, known.stride, f"stage {i + 1}")
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
            image_size=trained_size,
            in_channels=_linear_shape(state, "patch_embed.0", 4)[1],
            num_classes=_num_classes(state),
            stem_dims=stem,
            stages=tuple(stages),
            downsamples=tuple(downsamples),
            distillation=any(key.startswith("head_dist.") for key in state),
            activation=activation or known.activation or "hardswish",
            stem_activation=known.stem_activation,
            attention_activation=known.attention_activation,
            norm=_norm(state),
            bias_over_scale=known.bias_over_scale,
        )
    except ValueError as error:
        raise CheckpointError(f"The tensors' shapes fit no LeViT: {error}.") from error
    if activation is None and known.activation is None and config.variant in TIMM_VARIANTS:
        config = config.replace(activation=TIMM_VARIANTS[config.variant].activation)
    constants = _assumed_constants(config, known, activation)
    return Inferred(config, (*constants, *assumed))


def _assumed_constants(config: LeViTConfig, known: Known, activation: str | None) -> list[str]:
    assumed = []
    if NORMS[config.norm]:
        assumed.append(f"BatchNorm eps {config.bn_eps}, which no checkpoint stores")
    if config.norm == "layernorm":
        assumed.append(f"LayerNorm eps {config.ln_eps}, which no checkpoint stores")
    if activation is None and known.activation is None:
        source = (
            f"timm's {config.variant}, whose widths and depths these are"
            if config.variant in TIMM_VARIANTS
            else "every published official LeViT"
        )
        assumed.append(f"activation {config.activation}, as in {source}")
    if config.distillation and not known.averages_heads:
        assumed.append("the mean of both heads, as in the paper; the original code returns both")
    return assumed


def _has(state: State, layer: str) -> bool:
    """Whether there is a linear layer or convolution of this name, with BatchNorm or without."""
    return f"{layer}.c.weight" in state or f"{layer}.weight" in state


def _linear_shape(state: State, layer: str, rank: int) -> tuple[int, ...]:
    """The weight's shape of a linear layer or convolution, with BatchNorm or without."""
    plain = f"{layer}.weight"
    return _shape(state, plain if plain in state else f"{layer}.c.weight", rank)


def _norm(state: State) -> str:
    """The key of ``NORMS``, by the names in the stem and the first attention block."""
    if "blocks.0.m.norm.weight" in state:
        return "layernorm"
    stem, attention = "patch_embed.0.c.weight" in state, "blocks.0.m.qkv.c.weight" in state
    if stem:
        return "batchnorm"
    return "batchnorm-in-attention" if attention else "none"


def _num_classes(state: State) -> int:
    counts = {}
    for head in ("head", "head_dist"):
        if head == "head" or any(key.startswith("head_dist.") for key in state):
            plain = f"{head}.weight"
            counts[head] = _shape(state, plain if plain in state else f"{head}.l.weight", 2)[0]
    if len(set(counts.values())) > 1:
        raise CheckpointError(
            f"The class head has {counts['head']} classes, the distillation head "
            f"{counts['head_dist']}. Expected as many: logits of different classes cannot be "
            "averaged. Leave the head you do not need out of the state dict."
        )
    return counts["head"]


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
    dims = [_linear_shape(state, "patch_embed.0", 4)[0]]
    while _has(state, layer := f"patch_embed.{2 * len(dims)}"):  # activations between
        dims.append(_linear_shape(state, layer, 4)[0])
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
        if _has(state, f"{name}.m.qkv"):
            stage, area = _attention(state, f"{name}.m", _mlp_dim(state, i + 1))
            if len(stages) == len(downsamples):
                stages.append(stage)
                tokens.append(area)
            else:
                first = stages[-1]
                stages[-1] = Stage(**{**vars(first), "depth": first.depth + 1})
        elif _has(state, f"{name}.kv"):
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
    layer = f"blocks.{block}.m.0"
    return _linear_shape(state, layer, 2)[0] if _has(state, layer) else 0


def _attention(state: State, name: str, mlp_dim: int) -> tuple[Stage, int]:
    """A stage of depth 1 and its number of tokens, from its first attention block."""
    heads, tokens = _shape(state, f"{name}.attention_biases", 2)
    rows, dim = _linear_shape(state, f"{name}.qkv", 2)
    values = _linear_shape(state, f"{name}.proj.1", 2)[1]
    key_dim = _per_head(rows - values, 2 * heads, f"{name}.qkv", heads)
    value_dim = _per_head(values, heads, f"{name}.proj.1", heads)
    return Stage(dim, 1, heads, key_dim, value_dim, mlp_dim), tokens


def _downsample(state: State, name: str, mlp_dim: int) -> Downsample:
    heads = _shape(state, f"{name}.attention_biases", 2)[0]
    queries = _linear_shape(state, f"{name}.q.1", 2)[0]
    key_dim = _per_head(queries, heads, f"{name}.q.1", heads)
    values = _linear_shape(state, f"{name}.proj.1", 2)[1]
    value_dim = _per_head(values, heads, f"{name}.proj.1", heads)
    return Downsample(heads, key_dim, value_dim, mlp_dim)


def _per_head(width: int, parts: int, layer: str, heads: int) -> int:
    if width < parts or width % parts:
        raise CheckpointError(
            f"The weight of {layer} does not divide among the {heads} heads that the "
            "attention_biases beside it have. The tensors come from different networks."
        )
    return width // parts


def _image_size(
    state: State, tokens: int, stem_depth: int, known: Known, asked: Grid | None
) -> tuple[Grid, Grid, bool]:
    """The image size trained at, the token grid behind the stem, and whether anybody told them.

    In order of trust: what a config states, stored indices, sizes that fit, a square.
    """
    idxs = state.get("blocks.0.m.attention_bias_idxs")

    def grid_of(size: Grid) -> Grid:
        for _ in range(stem_depth):
            size = subsampled(size, 2)
        return size

    def fits(size: Grid) -> bool:
        grid = grid_of(size)
        if math.prod(grid) != tokens:
            return False
        return idxs is None or torch.equal(idxs, offset_indices(grid, 1))

    if known.image_size is not None:
        height, width = known.image_size
        grid = grid_of(known.image_size)
        if not fits(known.image_size):
            raise CheckpointError(
                f"config.json says that an image is {height}x{width}, which is "
                f"{grid[0]}x{grid[1]} tokens behind the stem, but the first attention bias is for "
                f"{tokens}. Correct the config, or give the weights file alone."
            )
        return known.image_size, grid, True
    for size in (known.usual_image_size, asked):
        if size is not None and fits(size):
            return size, grid_of(size), True

    if idxs is not None and tuple(idxs.shape) == (tokens, tokens):
        grid = _grid_of_indices(idxs)
        return (grid[0] * 2**stem_depth, grid[1] * 2**stem_depth), grid, False
    side = math.isqrt(tokens)
    if side * side != tokens:
        wrong = f", and {asked[0]}x{asked[1]} is not it" if asked else ""
        raise CheckpointError(
            f"The first attention bias is for {tokens} tokens, which is no square grid, and the "
            "checkpoint does not tell its sides. Give the image size it was trained at with "
            f"--image-size HxW{wrong}; or, where it has a config.json, give its folder."
        )
    return (side * 2**stem_depth, side * 2**stem_depth), (side, side), False


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


def _strides(grid: Grid, next_tokens: int, known: int | None, where: str) -> list[int]:
    """The strides that leave ``next_tokens`` of a grid; first 2, the published one, if it does."""
    candidates = [2, 1, *range(3, max(grid) + 1)] if known is None else [known]
    if grid == (1, 1):
        candidates = candidates[:1]  # of a single token, every stride keeps that token
    strides = [
        stride for stride in candidates if math.prod(subsampled(grid, stride)) == next_tokens
    ]
    if not strides:
        raise CheckpointError(
            f"No stride leads from the {grid[0]}x{grid[1]} tokens of {where} to the {next_tokens} "
            "of the next one. The tensors come from different networks."
        )
    return strides
