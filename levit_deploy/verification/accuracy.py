"""The cost of rounding, on pictures."""

from dataclasses import dataclass

import numpy as np

from levit_deploy.arrays import FloatArray, Run
from levit_deploy.errors import UsageError, VerificationError
from levit_deploy.pictures.split import Judging
from levit_deploy.text import counted, rounded_up
from levit_deploy.verification.confidence import (
    CONFIDENCE,
    limit_of_loss,
    limit_of_share,
    pictures_needed,
)

MAX_DROP, MAX_DISAGREEMENT = 0.3, 0.5  # points of top-1, and percent of pictures


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How the int8 network answers pictures, beside the float one.

    ``agreement`` is the percentage of pictures to which both give the same top-1. ``float_top1``
    and ``int8_top1`` are percentages, and ``changed_for_better`` and ``changed_for_worse`` count
    the answers that only int8, or only float, gets right; all None without labels. ``drop`` is the
    loss, in points of top-1, or of agreement without labels, and ``allowed`` the largest that
    passes. ``largest_drop`` is the largest that 95 % confidence leaves open. It must be allowed,
    too, if ``confident``. ``pictures_needed`` is about the number of pictures that would show it,
    if as large a share of answers changes; None if no number would. ``constant_drop`` is the loss
    of a network that gives every picture the best single answer: pictures with which it would pass
    judge nothing. ``understood`` says how they were prepared, and which folders were taken for
    which classes.
    """

    pictures: int
    agreement: float
    float_top1: float | None
    int8_top1: float | None
    changed_for_better: int | None
    changed_for_worse: int | None
    drop: float
    largest_drop: float
    allowed: float
    pictures_needed: int | None
    confident: bool
    constant_drop: float
    understood: str

    @property
    def shown(self) -> bool:
        """Whether the pictures are enough to show, with confidence, that the drop is allowed."""
        return self.largest_drop <= self.allowed

    @property
    def summary(self) -> str:
        """The drop, the largest that is left open, and the pictures that would leave no more."""
        words = (
            f"lost {max(self.drop, 0):.2f} points; at most {rounded_up(self.largest_drop)} with "
            f"{100 * CONFIDENCE:g} % confidence"
        )
        if self.shown:
            return words
        if self.pictures_needed is None:
            return f"{words}; no number of such pictures would show {self.allowed:g}"
        number = rounded_up(self.pictures_needed)
        return f"{words}; about {number} pictures would show {self.allowed:g}"

    @property
    def sentence(self) -> str:
        """The summary with the agreement, as an artifact carries it."""
        pictures = counted(self.pictures, "picture")
        return f"{self.summary}; the same top-1 on {self.agreement:.2f} % of {pictures}"

    @property
    def too_few_pictures(self) -> bool:
        """Whether the one failure is that the pictures show too little, and confidence is asked."""
        judged = self.constant_drop > self.allowed >= self.drop
        return judged and self.confident and not self.shown

    @property
    def failures(self) -> tuple[str, ...]:
        """Each failure in words with figures; empty if there is none."""
        if self.constant_drop <= self.allowed:
            return (self._why_they_judge_nothing,)
        if self.drop <= self.allowed:
            return (self.summary,) if self.too_few_pictures else ()
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
            "rounded network from one that always answers the same. They were "
            f"{self.understood}, which you can change with {options}"
        )


def require_drop(max_drop: float | None) -> None:
    """Raise UsageError for a drop that is not 0 to 100 points; None stands for the default."""
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop must be 0 to 100 points, not {max_drop}.")


def require_enough(pictures: Judging, max_drop: float | None) -> None:
    """Raise VerificationError if even int8 without a changed answer could not be shown accurate."""
    n, allowed = len(pictures.paths), _allowed(pictures, max_drop)
    limit = _largest_drop(0, 0, pictures)
    if limit <= allowed:
        return
    needed = pictures_needed(0, 0, n, allowed / 100)
    number = "No number" if needed is None else f"About {rounded_up(needed)}"
    raise VerificationError(
        f"{counted(n, 'picture')} to judge by are too few for --confident. Even if rounding "
        f"changed no answer, it could lose {rounded_up(limit)} points with {100 * CONFIDENCE:g} % "
        f"confidence. {number} could show that it loses at most {allowed:g}. Give more "
        "pictures, a larger --max-drop, or leave --confident out."
    )


def top1(run: Run, pictures: Judging, sha256: str = "") -> FloatArray:
    """The class with the largest logit, for each picture; those of a file are remembered."""
    known = pictures.answers.get(sha256)
    if known is None:
        known = np.concatenate([run(batch).argmax(axis=1) for batch in pictures.batches()])
        if sha256:
            pictures.answers[sha256] = known
    return known


def accuracy(
    float_top1: FloatArray,
    int8_top1: FloatArray,
    pictures: Judging,
    max_drop: float | None,
    *,
    confident: bool = False,
) -> Accuracy:
    """Compare two networks' answers; ``max_drop`` None is MAX_DROP, or MAX_DISAGREEMENT."""
    labels, n = pictures.labels, len(pictures.paths)
    right = float_top1 if labels is None else labels
    allowed = _allowed(pictures, max_drop)
    was, is_ = float_top1 == right, int8_top1 == right
    worse, better = int((was & ~is_).sum()), int((is_ & ~was).sum())
    limit = _largest_drop(worse, better, pictures)
    needed = pictures_needed(worse, better, n, allowed / 100)
    if needed is not None and limit > allowed:
        needed = max(needed, n + 1)  # it is an estimate, and n are known to be too few
    most = int(np.unique(right, return_counts=True)[1].max())  # that one answer gets right
    return Accuracy(
        pictures=n,
        agreement=100 * int((float_top1 == int8_top1).sum()) / n,
        float_top1=None if labels is None else 100 * int(was.sum()) / n,
        int8_top1=None if labels is None else 100 * int(is_.sum()) / n,
        changed_for_better=None if labels is None else better,
        changed_for_worse=None if labels is None else worse,
        drop=100 * (worse - better) / n,  # the difference of two percentages is not exact
        largest_drop=limit,
        allowed=allowed,
        pictures_needed=needed,
        confident=confident,
        constant_drop=100 * (int(was.sum()) - most) / n,
        understood=pictures.understood,
    )


def _largest_drop(worse: int, better: int, pictures: Judging) -> float:
    """The points that confidence leaves open; without labels no answer changes for the better."""
    n = len(pictures.paths)
    if pictures.labels is None:
        return 100 * limit_of_share(worse, n)
    return 100 * limit_of_loss(worse, better, n)


def _allowed(pictures: Judging, max_drop: float | None) -> float:
    """The points that may be lost; the default is another one without labels."""
    if max_drop is not None:
        return max_drop
    return MAX_DISAGREEMENT if pictures.labels is None else MAX_DROP
