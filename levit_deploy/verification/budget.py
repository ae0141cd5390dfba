"""The error that an artifact may have, and the reason for its size.

The reference is the original network in float64. The original in float32, as its author runs it,
differs from that already. This error is the natural unit: everybody who trains in float32 has
accepted it. An exact rewrite computes the same function in another order, with weights that were
rounded once more, so its error is another draw from the same distribution: about as large, by
chance smaller or larger. The same holds of float16 and bfloat16: the unit for an artifact that
computes in one is the error of the original that computes in it, as ``model.half()`` would.

    RMSE over a kind of input:  at most RMSE_FACTOR times the original's
    largest error:              at most MAX_FACTOR times the original's, as extremes vary more
    both:                       never less than a few steps (ulps) of the logits' size,
                                for inputs on which the original happens to be exact

Probabilities are held by their logarithms: those are the logits less one number for each image,
the log of the sum of their exponentials. So all of the above holds for them as well, and an error
in them is a relative error of the probability. Compared directly, probabilities would hide errors:
if one class has nearly everything, wrong logits of the others move nothing. Values below LEAST
count as the same, as runtimes cut off in different places at the end of float32.

If several draws of the original's error are known (``Reference.draws``), the largest counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from levit_deploy.choices import EPS, Precision

RMSE_FACTOR, MAX_FACTOR = 2.0, 4.0
RMSE_FLOOR_ULPS, MAX_FLOOR_ULPS = 2.0, 4.0
LEAST = 1e-30  # of a probability, or a budget; float32 has all its digits down to 1.2e-38


@dataclass(frozen=True)
class Budget:
    """The largest root-mean-square and absolute error an artifact may have, in logits."""

    rmse: float
    max_error: float


def budget(
    originals: Iterable[npt.NDArray[Any]],
    reference: npt.NDArray[np.float64],
    precision: Precision = "fp32",
) -> Budget:
    """The budget for some inputs, from the original's values in ``precision`` and in float64.

    ``originals`` are one or more draws of the former.
    """
    ulp = float(np.abs(reference).max()) * EPS[precision]
    rmse, largest = 0.0, 0.0
    for original in originals:
        error = original - reference
        rmse, largest = max(rmse, rms(error)), max(largest, float(np.abs(error).max()))
    return Budget(  # more than 0, even if all logits are 0
        rmse=max(RMSE_FACTOR * rmse, RMSE_FLOOR_ULPS * ulp, LEAST),
        max_error=max(MAX_FACTOR * largest, MAX_FLOOR_ULPS * ulp, LEAST),
    )


def log_probabilities(probabilities: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The natural logarithms of probabilities, those below LEAST alike."""
    logarithms: npt.NDArray[Any] = np.log(np.maximum(probabilities, LEAST))
    return logarithms


def rms(error: npt.NDArray[np.float64]) -> float:
    """The root of the mean square; NaN if any error is NaN."""
    return float(np.sqrt(np.mean(np.square(error))))
