"""Round the weights of a product together, so that what it gives changes least.

Rounding has made inputs x' of the inputs x. A row w of the weights becomes q, on the grid of its
channel, and the mean of (w x - q x')^2 over pictures is to be small. Its best real solution, with H
the mean of x' x'^T, is

    w + w D H^-1,  D the mean of (x - x') x'^T

Its numbers are rounded one after the other. Each time, those behind move to where they make up best
for the error (Frantar et al., arXiv 2210.17323, section 3).

Every number is one of the two on the grid beside its float weight. So two of one sign, whose float
weights are at most 127 steps together, are at most 128.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

A_LITTLE = 1e-4  # of a step: a scale is itself rounded, and 127 steps may come out as 127.00001
TOGETHER = 32  # numbers whose errors move those far behind in one product, which is faster
DAMPING = 0.01  # of the mean square of an input: few pictures say little about many inputs

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """The mean of x' x'^T and that of (x - x') x'^T, each (inputs, inputs)."""

    inputs: Array
    drift: Array

    @functools.cached_property
    def moves(self) -> Array:
        """An upper triangle M with H^-1 = M^T M, once for all products of these inputs.

        Row k tells the numbers behind k where to move for an error of k.
        """
        inputs = len(self.inputs)
        damping = DAMPING * np.trace(self.inputs) / inputs or 1.0  # all inputs are zero
        damped = self.inputs + damping * np.eye(inputs)
        # With H = R R^T and R upper triangular, M = R^-1. From the last number to the first, R is
        # the lower triangle that LAPACK gives. torch's idle threads do not spin, unlike numpy's.
        lower = torch.linalg.cholesky(torch.from_numpy(damped[::-1, ::-1].copy()))
        eye = torch.eye(inputs, dtype=torch.float64)
        inverse: Array = torch.linalg.solve_triangular(lower, eye, upper=False).numpy()
        return inverse[::-1, ::-1].copy()


def rounded_together(weight: Array, scale: Array, moments: Moments) -> npt.NDArray[np.int8]:
    """Round a weight (out, inputs) to bytes, by one step for each row: ``scale`` (out,)."""
    inputs, moves = len(moments.inputs), moments.moves
    # one row for each input, as they are rounded one after the other
    moved = _product(weight, moments.drift, moves.T, moves)
    target = np.ascontiguousarray((weight + moved).T)
    steps = np.ascontiguousarray((weight / scale[:, None]).T)
    low, high = np.floor(steps + A_LITTLE), np.ceil(steps - A_LITTLE)
    numbers = np.empty_like(target)
    for start in range(0, inputs, TOGETHER):
        end = min(start + TOGETHER, inputs)
        errors = np.empty((end - start, len(weight)))
        for k in range(start, end):
            numbers[k] = np.clip(np.rint(target[k] / scale), low[k], high[k])
            error = (target[k] - numbers[k] * scale) / moves[k, k]
            target[k + 1 : end] -= np.outer(moves[k, k + 1 : end], error)
            errors[k - start] = error
        target[end:] -= _product(moves[start:end, end:].T, errors)  # of all of them at once
    return numbers.T.astype(np.int8)


def _product(*matrices: Array) -> Array:
    """The product of some matrices, from the first to the last."""
    several = [torch.from_numpy(matrix) for matrix in matrices]
    product: Array = functools.reduce(torch.matmul, several).numpy()
    return product
