"""Infer the image size a checkpoint was trained at, and the stride of every subsampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from levit_deploy.checkpoint.families.known import Known
from levit_deploy.config import Grid, size_text, subsampled
from levit_deploy.errors import CheckpointError
from levit_deploy.model import offset_indices


@dataclass(frozen=True)
class TokenEvidence:
    """The parts of a checkpoint that depend on the token grids.

    ``stem_depth`` is the number of stride-2 convolutions, ``stages`` the number of tokens in each
    stage. ``idxs`` holds the offset indices stored by the first attention, ``down_idxs`` those of
    each subsampling. They are None if not stored.
    """

    stem_depth: int
    stages: tuple[int, ...]
    idxs: Tensor | None
    down_idxs: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class TrainedSize:
    """The (height, width) trained at, each subsampling's stride, and the assumptions in words."""

    image_size: Grid
    strides: tuple[int, ...]
    assumed: tuple[str, ...]


def infer_image_size(tokens: TokenEvidence, known: Known, asked: Grid | None) -> TrainedSize:
    """Infer the size from, in order of trust: a config, stored indices, a square grid, ``asked``.

    ``asked`` is the size that the user gives. The network may have been trained at another, so it
    counts only if nothing else fits. Raises CheckpointError if no size fits.
    """
    if known.image_size is not None:
        return _stated_size(known.image_size, tokens, known)
    size = _fitting_size(tokens, known, asked)
    if size is None:  # the indices may belong to no grid, and the strict loader names those
        bare = replace(tokens, idxs=None, down_idxs=(None,) * len(tokens.down_idxs))
        size = _fitting_size(bare, known, asked)
    if size is None:
        wrong = f" ({size_text(asked)} is not it)" if asked else ""
        raise CheckpointError(
            f"The attention biases are for {_listed(tokens.stages)} tokens, which fit no square "
            "image. The checkpoint does not tell the size it was trained at. Give that size with "
            f"--image-size HxW{wrong}, or write it into a config.json beside the weights and give "
            "the folder. If no size fits, the tensors come from different networks."
        )
    return size


def _stated_size(image_size: Grid, tokens: TokenEvidence, known: Known) -> TrainedSize:
    options = _strides(image_size, tokens, known)
    if options is None:
        grid = size_text(_grid(image_size, tokens.stem_depth))
        raise CheckpointError(
            f"config.json says that images are {size_text(image_size)}, so {grid} tokens behind "
            f"the stem. They do not fit the attention biases for {_listed(tokens.stages)} tokens. "
            "Correct the config, or give the weights file alone."
        )
    return TrainedSize(image_size, *_chosen(options))


def _fitting_size(tokens: TokenEvidence, known: Known, asked: Grid | None) -> TrainedSize | None:
    for size in _candidates(tokens, known, asked):
        options = _strides(size, tokens, known)
        if options is not None:
            strides, assumed = _chosen(options)
            if size not in (known.usual_image_size, asked):
                grid, times = size_text(_grid(size, tokens.stem_depth)), 2**tokens.stem_depth
                text = f"image size {size_text(size)}, {times} times the {grid} token grid"
                assumed = (text, *assumed)
            return TrainedSize(size, strides, assumed)
    return None


def _candidates(tokens: TokenEvidence, known: Known, asked: Grid | None) -> list[Grid]:
    """The sizes to try, the most trusted first."""

    def image(grid: Grid) -> Grid:
        return grid[0] * 2**tokens.stem_depth, grid[1] * 2**tokens.stem_depth

    sizes = [known.usual_image_size]
    first = tokens.stages[0]
    if tokens.idxs is not None and tuple(tokens.idxs.shape) == (first, first):
        if asked is not None:  # a column of tokens has the same offsets as a row
            sizes.append(image(_grid(asked, tokens.stem_depth)))
        sizes.append(image(_grid_of_indices(tokens.idxs)))
    side = math.isqrt(first)
    if side * side == first:
        sizes.append(image((side, side)))
    return [size for size in (*sizes, asked) if size is not None]


def _strides(size: Grid, tokens: TokenEvidence, known: Known) -> list[list[int]] | None:
    """The possible strides of each subsampling, best first. None if the size does not fit."""
    grid = _grid(size, tokens.stem_depth)
    if math.prod(grid) != tokens.stages[0]:
        return None
    if tokens.idxs is not None and not same_indices(tokens.idxs, offset_indices(grid, 1)):
        return None
    options = []
    for next_tokens, idxs in zip(tokens.stages[1:], tokens.down_idxs, strict=True):
        candidates = [2, 1, *range(3, max(grid) + 1)] if known.stride is None else [known.stride]
        if grid == (1, 1):
            candidates = candidates[:1]  # every stride keeps a single token
        fitting = [
            stride
            for stride in candidates
            if math.prod(subsampled(grid, stride)) == next_tokens
            and (idxs is None or same_indices(idxs, offset_indices(grid, stride)))
        ]
        if not fitting:
            return None
        # strides with the same indices compute the same
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


def same_indices(stored: Tensor, computed: Tensor) -> bool:
    """Whether indices are the computed ones, up to rounding in the type they are stored in."""
    return stored.shape == computed.shape and torch.equal(stored, computed.to(stored.dtype))


def _grid(size: Grid, stem_depth: int) -> Grid:
    """The token grid behind the stem."""
    for _ in range(stem_depth):
        size = subsampled(size, 2)
    return size


def _grid_of_indices(idxs: Tensor) -> Grid:
    """The sides of a grid, from its offset indices |dy| * W + |dx| in row-major order.

    Seen from the second token, token j has the index j + 1 first at j = W, the start of the next
    row, with |dy| = |dx| = 1.
    """
    tokens = idxs.shape[0]
    if tokens == 1:
        return 1, 1
    second: list[int] = idxs[1].tolist()
    width = next((j for j in range(1, tokens) if second[j] == j + 1), tokens)
    return tokens // width, width


def _listed(tokens: Sequence[int]) -> str:
    return ", then ".join(map(str, tokens))
