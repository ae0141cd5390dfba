"""What rounding costs on pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.errors import UsageError
from levit_deploy.pictures.split import Judging

MAX_DROP, MAX_DISAGREEMENT = 0.3, 0.5  # points of top-1, and percent of pictures

Run = Callable[[Images], FloatArray]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How the int8 network answers pictures, beside the float one.

    ``agreement`` is the percentage of the pictures to which both give the same top-1;
    ``float_top1`` and ``int8_top1`` are percentages, None where there are no labels. ``drop`` is
    what was lost, in points of top-1, or of agreement where there are no labels; ``allowed`` is how
    much may be. ``constant_drop`` is what a network would lose that gives every picture the best
    one answer: pictures with which it would pass judge nothing. ``understood`` says how they were
    prepared, and their folders taken for classes.
    """

    pictures: int
    agreement: float
    float_top1: float | None
    int8_top1: float | None
    drop: float
    allowed: float
    constant_drop: float
    understood: str

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in words with figures; empty where nothing is."""
        if self.constant_drop <= self.allowed:
            return (self._why_they_judge_nothing,)
        if self.drop <= self.allowed:
            return ()
        if self.float_top1 is not None:
            return (
                f"top-1 falls from {self.float_top1:.2f} to {self.int8_top1:.2f} %, by more than "
                f"{self.allowed:g} points",
            )
        return (
            f"the same top-1 on {self.agreement:.2f} %, where {100 - self.allowed:g} % was asked",
        )

    @property
    def _why_they_judge_nothing(self) -> str:
        """What float32 and one answer make of the pictures, and how the user can correct it."""
        if self.float_top1 is None:
            found = f"float32 gives one answer to all but {self.constant_drop:.2f} %"
            options = "--preprocessing changes"
        else:
            one = self.float_top1 - self.constant_drop
            found = (
                f"float32's own top-1 is {self.float_top1:.2f} %, one answer to all would have "
                f"{one:.2f} %"
            )
            options = "--preprocessing and --labels change"
        return (
            f"{found}, and {self.allowed:g} points may be lost: they judge nothing. They were "
            f"{self.understood}, which {options}"
        )


def require_drop(max_drop: float | None) -> None:
    """Raise UsageError for a drop that is no number of points; None stands for the default."""
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop {max_drop} is no number of points from 0 to 100.")


def top1(run: Run, pictures: Judging) -> FloatArray:
    """The class with the largest logit, for each picture."""
    return np.concatenate([run(batch).argmax(axis=1) for batch in pictures.batches()])


def accuracy(
    float_top1: FloatArray, int8_top1: FloatArray, pictures: Judging, max_drop: float | None
) -> Accuracy:
    """Compare two networks' answers; ``max_drop`` None is MAX_DROP, or MAX_DISAGREEMENT."""
    n, agreeing = len(pictures.paths), int((float_top1 == int8_top1).sum())
    agreement = 100 * agreeing / n
    if pictures.labels is None:
        allowed = MAX_DISAGREEMENT if max_drop is None else max_drop
        constant = 100 * (n - _most(float_top1)) / n
        return Accuracy(
            pictures=n,
            agreement=agreement,
            float_top1=None,
            int8_top1=None,
            drop=100 * (n - agreeing) / n,
            allowed=allowed,
            constant_drop=constant,
            understood=pictures.understood,
        )
    before, after = (int((found == pictures.labels).sum()) for found in (float_top1, int8_top1))
    allowed = MAX_DROP if max_drop is None else max_drop
    drop = 100 * (before - after) / n  # of counts: the difference of two percentages is not exact
    constant = 100 * (before - _most(pictures.labels)) / n
    return Accuracy(
        pictures=n,
        agreement=agreement,
        float_top1=100 * before / n,
        int8_top1=100 * after / n,
        drop=drop,
        allowed=allowed,
        constant_drop=constant,
        understood=pictures.understood,
    )


def _most(answers: npt.NDArray[Any]) -> int:
    """How often the most frequent answer is given."""
    return int(np.unique(answers, return_counts=True)[1].max())
