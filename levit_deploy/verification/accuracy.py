"""The cost of rounding, on pictures."""

from dataclasses import dataclass

import numpy as np

from levit_deploy.arrays import FloatArray, Run
from levit_deploy.errors import UsageError
from levit_deploy.pictures.split import Judging

MAX_DROP, MAX_DISAGREEMENT = 0.3, 0.5  # points of top-1, and percent of pictures


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How the int8 network answers pictures, beside the float one.

    ``agreement`` is the percentage of pictures to which both give the same top-1. ``float_top1``
    and ``int8_top1`` are percentages, None without labels. ``drop`` is the loss, in points of
    top-1, or of agreement without labels, and ``allowed`` the largest that passes.
    ``constant_drop`` is the loss of a network that gives every picture the best single answer:
    pictures with which it would pass judge nothing. ``understood`` says how they were prepared, and
    which folders were taken for which classes.
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
        """Each failure in words with figures; empty if there is none."""
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
            f"the same top-1 on {self.agreement:.2f} %, below the {100 - self.allowed:g} % asked",
        )

    @property
    def _why_they_judge_nothing(self) -> str:
        """How float32 and one answer for all fare, and how the user can change that."""
        if self.float_top1 is None:
            reason = f"float32 gives one answer to all but {self.constant_drop:.2f} %"
            options = "--preprocessing"
        else:
            one = self.float_top1 - self.constant_drop
            reason = (
                f"float32 is right on {self.float_top1:.2f} %, and one answer to all would be on "
                f"{one:.2f} %"
            )
            options = "--preprocessing and --labels"
        return (
            f"{reason}. With {self.allowed:g} points allowed, these pictures cannot tell a good "
            "int8 network from one that always answers the same. They were "
            f"{self.understood}, which you can change with {options}"
        )


def require_drop(max_drop: float | None) -> None:
    """Raise UsageError for a drop that is not 0 to 100 points; None stands for the default."""
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop must be 0 to 100 points, not {max_drop}.")


def top1(run: Run, pictures: Judging) -> FloatArray:
    """The class with the largest logit, for each picture."""
    return np.concatenate([run(batch).argmax(axis=1) for batch in pictures.batches()])


def accuracy(
    float_top1: FloatArray, int8_top1: FloatArray, pictures: Judging, max_drop: float | None
) -> Accuracy:
    """Compare two networks' answers; ``max_drop`` None is MAX_DROP, or MAX_DISAGREEMENT."""
    labels, n = pictures.labels, len(pictures.paths)
    right, default = (float_top1, MAX_DISAGREEMENT) if labels is None else (labels, MAX_DROP)
    before, after = (int((answers == right).sum()) for answers in (float_top1, int8_top1))
    most = int(np.unique(right, return_counts=True)[1].max())  # that one answer gets right
    return Accuracy(
        pictures=n,
        agreement=100 * int((float_top1 == int8_top1).sum()) / n,
        float_top1=None if labels is None else 100 * before / n,
        int8_top1=None if labels is None else 100 * after / n,
        drop=100 * (before - after) / n,  # the difference of two percentages is not exact
        allowed=default if max_drop is None else max_drop,
        constant_drop=100 * (before - most) / n,
        understood=pictures.understood,
    )
