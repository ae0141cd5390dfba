"""The image size a checkpoint was trained at, and the stride of every subsampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from levit_deploy.checkpoint.families.known import Known
from levit_deploy.config import Grid, size_text, subsampled
from levit_deploy.errors import CheckpointError
from levit_deploy.model import offset_indices


@dataclass(frozen=True)
class Tokens:
    """What a checkpoint shows of its token grids.

    ``stages`` is the number of tokens of each stage; ``idxs`` the offset indices stored by the
    first attention, ``down_idxs`` those of each subsampling, None where there are none.
    """

    stages: tuple[int, ...]
    idxs: Tensor | None
    down_idxs: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Grids:
    """(height, width) of an image, the stride of each subsampling, and what of it was assumed."""

    image_size: Grid
    strides: tuple[int, ...]
    assumed: tuple[str, ...]


def trained_grids(tokens: Tokens, stem_depth: int, known: Known, asked: Grid | None) -> Grids:
    """Tell the image size by, in order of trust, a config, stored indices, a square, ``asked``.

    ``asked`` is the size the user gives, who may mean another than the network was trained at: it
    is believed only where nothing else fits. Raises CheckpointError where nothing does.
    """
    if known.image_size is not None:
        options = _strides(known.image_size, tokens, stem_depth, known)
        if options is None:
            raise CheckpointError(
                f"config.json says that images are {size_text(known.image_size)}, which is "
                f"{size_text(_grid(known.image_size, stem_depth))} tokens behind the stem; the "
                f"attention biases are for {_listed(tokens.stages)}. Correct it, or give the "
                "weights file alone."
            )
        return Grids(known.image_size, *_chosen(options))

    for size in _candidates(tokens, stem_depth, known, asked):
        options = _strides(size, tokens, stem_depth, known)
        if options is not None:
            strides, assumed = _chosen(options)
            if size not in (known.usual_image_size, asked):
                grid = size_text(_grid(size, stem_depth))
                text = f"image size {size_text(size)}, {2**stem_depth} times the {grid} token grid"
                assumed = (text, *assumed)
            return Grids(size, strides, assumed)
    if tokens.idxs is not None or any(idxs is not None for idxs in tokens.down_idxs):
        # the indices belong to no grid, which the strict loader says by name
        bare = Tokens(tokens.stages, None, (None,) * len(tokens.down_idxs))
        return trained_grids(bare, stem_depth, known, asked)
    wrong = f", and {size_text(asked)} is not it" if asked else ""
    raise CheckpointError(
        f"The attention biases are for {_listed(tokens.stages)} tokens, which fit no square image, "
        "and the checkpoint does not tell its sides. Give the size it was trained at with "
        f"--image-size HxW{wrong}; or in a config.json beside the weights, and give the folder. "
        "If no size fits, the tensors come from different networks."
    )


def same_indices(stored: Tensor, computed: Tensor) -> bool:
    """Whether indices are the computed ones, as far as the type they are stored in can tell."""
    return stored.shape == computed.shape and torch.equal(stored, computed.to(stored.dtype))


def _candidates(tokens: Tokens, stem_depth: int, known: Known, asked: Grid | None) -> list[Grid]:
    def image(grid: Grid) -> Grid:
        return grid[0] * 2**stem_depth, grid[1] * 2**stem_depth

    sizes = [known.usual_image_size]
    first = tokens.stages[0]
    if tokens.idxs is not None and tuple(tokens.idxs.shape) == (first, first):
        if asked is not None:  # a column of tokens has the same offsets as a row
            sizes.append(image(_grid(asked, stem_depth)))
        sizes.append(image(_grid_of_indices(tokens.idxs)))
    side = math.isqrt(first)
    if side * side == first:
        sizes.append(image((side, side)))
    return [size for size in (*sizes, asked) if size is not None]


def _strides(size: Grid, tokens: Tokens, stem_depth: int, known: Known) -> list[list[int]] | None:
    """The strides each subsampling may have, best first; None where the size does not fit."""
    grid = _grid(size, stem_depth)
    if math.prod(grid) != tokens.stages[0]:
        return None
    if tokens.idxs is not None and not same_indices(tokens.idxs, offset_indices(grid, 1)):
        return None
    options = []
    for next_tokens, idxs in zip(tokens.stages[1:], tokens.down_idxs, strict=True):
        candidates = [2, 1, *range(3, max(grid) + 1)] if known.stride is None else [known.stride]
        if grid == (1, 1):
            candidates = candidates[:1]  # of a single token, every stride keeps that token
        fitting = [
            stride
            for stride in candidates
            if math.prod(subsampled(grid, stride)) == next_tokens
            and (idxs is None or same_indices(idxs, offset_indices(grid, stride)))
        ]
        if not fitting:
            return None
        # indices tell; where several strides have the same, they compute the same
        options.append(fitting if idxs is None else fitting[:1])
        grid = subsampled(grid, fitting[0])
    return options


def _chosen(options: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    assumed = [
        f"stride {first} behind stage {i + 1}, as in every published LeViT; "
        f"{', '.join(map(str, others))} would fit as well"
        for i, (first, *others) in enumerate(options)
        if others
    ]
    return tuple(strides[0] for strides in options), tuple(assumed)


def _grid(size: Grid, stem_depth: int) -> Grid:
    """The token grid behind the stem of an image."""
    for _ in range(stem_depth):
        size = subsampled(size, 2)
    return size


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


def _listed(tokens: Sequence[int]) -> str:
    return ", then ".join(map(str, tokens))
