"""Compare an artifact's logits with the reference's, one kind of input at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from levit_deploy.errors import CheckpointError, VerificationError
from levit_deploy.model import LeViT
from levit_deploy.runtime.artifact import FloatArray
from levit_deploy.verification.budget import Budget, budget, rms
from levit_deploy.verification.inputs import Case

BATCH_SIZES = (1, 2, 3, 8)
BEYOND_CHANCE = 30.0  # times the budget; no correct artifact seen reached a third of it


@dataclass(frozen=True)
class CaseResult:
    """The figures of one kind of input, in logits.

    ``row_difference`` is the largest difference between an image's logits in one batch and in
    another; ``decided`` counts the images whose float64 top-1 leads by more than twice the largest
    error allowed, ``disagreements`` those of them where the artifact has another top-1.
    """

    name: str
    images: int
    rmse: float
    max_error: float
    budget: Budget
    row_difference: float
    decided: int
    disagreements: int
    finite: bool

    def within(self, factor: float) -> bool:
        """Whether every error is finite and at most ``factor`` times its budget."""
        return (
            self.finite
            and self.rmse <= factor * self.budget.rmse
            and max(self.max_error, self.row_difference) <= factor * self.budget.max_error
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in words with figures; empty where nothing is."""
        if not self.finite:
            return ("NaN or infinite logits",)
        found = []
        if not self.rmse <= self.budget.rmse:
            found.append(f"RMSE {self.rmse:.2e} above {self.budget.rmse:.2e}")
        if not self.max_error <= self.budget.max_error:
            found.append(f"error {self.max_error:.2e} above {self.budget.max_error:.2e}")
        if not self.row_difference <= self.budget.max_error:
            found.append(
                f"an image's logits change by {self.row_difference:.2e} with its batch, more than "
                f"{self.budget.max_error:.2e}"
            )
        if self.disagreements:
            found.append(f"another top-1 on {self.disagreements} of {self.decided} images")
        return tuple(found)


class Reference:
    """The original network, in float64 and, as the unit of error, in float32."""

    def __init__(self, model: LeViT) -> None:
        self._float32 = model
        self._float64 = copy.deepcopy(model).double()

    def logits(self, images: FloatArray) -> npt.NDArray[np.float64]:
        """float32 (n, channels, height, width) -> float64 (n, classes)."""
        return np.concatenate(
            [_run(self._float64, part.astype(np.float64)) for part in _chunks(images)]
        )

    def float32_logits(self, images: FloatArray) -> FloatArray:
        """float32 (n, channels, height, width) -> float32 (n, classes)."""
        return np.concatenate([_run(self._float32, part) for part in _chunks(images)])


def _chunks(images: FloatArray, size: int = 8) -> list[FloatArray]:
    """A few images at a time: in float64, activations take twice the memory they usually do."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def _run(model: LeViT, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(images)).numpy())


def compare_case(
    case: Case,
    reference: Reference,
    run: Callable[[FloatArray], FloatArray],
    fixed_batch: int | None,
) -> CaseResult:
    """Compare on as few images as settle the question.

    Errors vary by chance, and over few images so does their ratio. So a kind that fails by no more
    than chance could explain is tried again on more images, where the ratio of a correct artifact
    tends to 1 and that of a wrong one to what it is. The last number counts.
    """
    for size in case.sizes:
        result = _compare(case.name, case.draw(size), reference, run, fixed_batch)
        if not result.failures or not result.within(BEYOND_CHANCE):
            break
    return result


def _compare(
    name: str,
    images: FloatArray,
    reference: Reference,
    run: Callable[[FloatArray], FloatArray],
    fixed_batch: int | None,
) -> CaseResult:
    expected, original = reference.logits(images), reference.float32_logits(images)
    if not (np.isfinite(expected).all() and np.isfinite(original).all()):
        raise CheckpointError(
            f"On {name} inputs the checkpoint itself computes NaN or infinity in float32, so there "
            "is nothing to hold an artifact to. Check the training run that wrote the file."
        )
    allowed = budget(original, expected)

    # A fixed batch cannot hold an image alone, but it can hold it in another place.
    batches = [(size, 0) for size in BATCH_SIZES]
    if fixed_batch is not None:
        batches = [(fixed_batch, 0), (fixed_batch, 1)]
    runs = [_in_batches(run, images, size, shift) for size, shift in batches]
    order = np.concatenate([order for order, _ in runs])  # which image each row is
    found = np.concatenate([logits for _, logits in runs])
    if found.shape[1:] != expected.shape[1:]:
        raise VerificationError(
            f"The artifact gives {found.shape[1:]} logits an image where the checkpoint gives "
            f"{expected.shape[1:]}. It was made from another network."
        )

    _, first_row = np.unique(order, return_index=True)  # of each image
    with np.errstate(invalid="ignore"):  # infinite logits are reported, not warned about
        error = found - expected[order]  # rows, classes
        row_difference = float(np.abs(found - found[first_row][order]).max())

    top_two = np.sort(expected, axis=1)[:, -2:]
    decided = np.ptp(top_two, axis=1) > 2 * allowed.max_error
    differs = np.unique(order[found.argmax(axis=1) != expected.argmax(axis=1)[order]])
    return CaseResult(
        name=name,
        images=len(images),
        rmse=rms(error),
        max_error=float(np.abs(error).max()),
        budget=allowed,
        row_difference=row_difference,
        decided=int(decided.sum()),
        disagreements=int(decided[differs].sum()),
        finite=bool(np.isfinite(found).all()),
    )


def _in_batches(
    run: Callable[[FloatArray], FloatArray], images: FloatArray, size: int, shift: int
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Run every image in batches of ``size``, the last one filled up from the start.

    Returns which image each row of logits is, and the rows.
    """
    n = len(images)
    order = (np.arange(-(-n // size) * size) + shift) % n
    logits = [run(images[order[start : start + size]]) for start in range(0, len(order), size)]
    return order, np.concatenate(logits)
