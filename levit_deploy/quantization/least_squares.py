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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular

A_LITTLE = 1e-4  # of a step: a scale is itself rounded, and 127 steps may come out as 127.00001
TOGETHER = 32  # numbers whose errors move those far behind in one product, which is faster
DAMPING = 0.01  # of the mean square of an input: few pictures say little about many inputs

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """The mean of x' x'^T and that of (x - x') x'^T, each (inputs, inputs)."""

    inputs: Array
    drift: Array


def rounded_together(weight: Array, scale: Array, moments: Moments) -> npt.NDArray[np.int8]:
    """Round a weight (out, inputs) to bytes, by one step for each row: ``scale`` (out,)."""
    inputs = len(moments.inputs)
    damping = DAMPING * np.trace(moments.inputs) / inputs or 1.0  # all inputs are zero
    damped = moments.inputs + damping * np.eye(inputs)
    # With H = R R^T and R upper triangular, H^-1 = M^T M and M = R^-1. From the last number to the
    # first, R is the lower triangle that LAPACK gives.
    upper = cholesky(damped[::-1, ::-1], lower=True)[::-1, ::-1]
    # row k tells the numbers behind k where to move for an error of k
    moves = solve_triangular(upper, np.eye(inputs))
    # one row for each input, as they are rounded one after the other
    target = np.ascontiguousarray((weight + weight @ moments.drift @ moves.T @ moves).T)
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
        target[end:] -= moves[start:end, end:].T @ errors  # the same, of all of them at once
    return numbers.T.astype(np.int8)
