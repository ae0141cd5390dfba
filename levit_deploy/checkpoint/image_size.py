"""Infer the image size a checkpoint was trained at, and the stride of every subsampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from levit_deploy.checkpoint.assumption import Assumption
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.given import Given
from levit_deploy.config import Grid, size_text, subsampled
from levit_deploy.errors import CheckpointError, UsageError
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
    """The (height, width) trained at, each subsampling's stride, and the assumptions."""

    image_size: Grid
    strides: tuple[int, ...]
    assumed: tuple[Assumption, ...]


def infer_image_size(tokens: TokenEvidence, known: Known, given: Given) -> TrainedSize:
    """Infer the size that a network was trained at.

    The first of these counts: the size that you say it was trained at, a config, the size it is to
    take if that fits the attention biases, stored indices, a square grid. Raises CheckpointError if
    no size fits, and UsageError if the size trained at does not.
    """
    if given.trained_size is not None:
        return _given_size(given.trained_size, tokens, known)
    if known.image_size is not None:
        return _stated_size(known.image_size, tokens, known)
    asked = given.image_size
    size = _fitting_size(tokens, known, asked)
    if size is None:  # the indices may belong to no grid, and the strict loader names those
        bare = replace(tokens, idxs=None, down_idxs=(None,) * len(tokens.down_idxs))
        size = _fitting_size(bare, known, asked)
    if size is None:
        wrong = f" ({size_text(asked)} is not it)" if asked else ""
        raise CheckpointError(
            f"The attention biases are for {_listed(tokens.stages)} tokens, which fit no square "
            "image. The checkpoint does not tell the size it was trained at. Give that size with "
            f"--image-size HxW{wrong}. If no size fits, the tensors come from different networks."
        )
    return size


def _given_size(image_size: Grid, tokens: TokenEvidence, known: Known) -> TrainedSize:
    options = _strides(image_size, tokens, known)
    if options is None:
        raise UsageError(
            f"--trained-size {size_text(image_size)} was given, {_misfit(image_size, tokens)} Give "
            "the size that the network was trained at, or leave the option out."
        )
    return TrainedSize(image_size, *_chosen(options))


def _stated_size(image_size: Grid, tokens: TokenEvidence, known: Known) -> TrainedSize:
    options = _strides(image_size, tokens, known)
    if options is None:
        raise CheckpointError(
            f"{known.source} says that images are {size_text(image_size)}, "
            f"{_misfit(image_size, tokens)} Give the size it was trained at with --trained-size, "
            "or correct the statement."
        )
    return TrainedSize(image_size, *_chosen(options))


def _misfit(image_size: Grid, tokens: TokenEvidence) -> str:
    grid = size_text(_grid(image_size, tokens.stem_depth))
    return (
        f"so {grid} tokens behind the stem. They do not fit the attention biases for "
        f"{_listed(tokens.stages)} tokens."
    )


def _fitting_size(tokens: TokenEvidence, known: Known, asked: Grid | None) -> TrainedSize | None:
    for size in _candidates(tokens, known, asked):
        options = _strides(size, tokens, known)
        if options is not None:
            strides, assumed = _chosen(options)
            if size not in (known.usual_image_size, asked):
                assumed = (_assumed_size(size, tokens, known), *assumed)
            return TrainedSize(size, strides, assumed)
    return None


def _assumed_size(size: Grid, tokens: TokenEvidence, known: Known) -> Assumption:
    """The assumption of a size. It is decisive if other grids have as many tokens in each stage."""
    times, grid = 2**tokens.stem_depth, _grid(size, tokens.stem_depth)
    area = math.prod(grid)
    rivals = [
        (height, area // height)
        for height in range(1, area + 1)
        if area % height == 0
        and height != grid[0]
        and _strides((height * times, area // height * times), tokens, known) is not None
    ]
    reason = f"{times} times the {size_text(grid)} token grid"
    if rivals:
        reason += f"; {', '.join(map(size_text, rivals))} would fit as well"
    return Assumption(f"the image size is {size_text(size)}", reason, decisive=bool(rivals))


def _candidates(tokens: TokenEvidence, known: Known, asked: Grid | None) -> list[Grid]:
    """The sizes to try, the most trusted first."""

    def image(grid: Grid) -> Grid:
        return grid[0] * 2**tokens.stem_depth, grid[1] * 2**tokens.stem_depth

    sizes = [asked, known.usual_image_size]
    first = tokens.stages[0]
    if tokens.idxs is not None and tuple(tokens.idxs.shape) == (first, first):
        sizes.append(image(_grid_of_indices(tokens.idxs)))
    side = math.isqrt(first)
    if side * side == first:
        sizes.append(image((side, side)))
    return [size for size in sizes if size is not None]


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


def _chosen(options: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], tuple[Assumption, ...]]:
    assumed = [
        Assumption(
            f"the stride behind stage {i + 1} is {first}",
            f"as in every published LeViT; {', '.join(map(str, others))} would fit as well",
            decisive=True,
        )
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
