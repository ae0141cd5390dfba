"""The outcome of an optimization: the fate of every form, and the winner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.optimization.candidate import Candidate, LeftOut
from levit_deploy.optimization.rules import Limits, Wishes
from levit_deploy.quantization.outcome import Quantization
from levit_deploy.timing import Ratio
from levit_deploy.verification.result import Verification

State = Literal["winner", "level", "slower", "refused", "excluded", "failed", "left out"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A candidate at the end: its figures, as far as they were measured.

    ``reason`` is a sentence about its ``state``. Times are in seconds a batch, and ``rounds`` their
    number. ``speed`` is against the baseline, in the rounds that both ran. ``verification`` is the
    proof, with the accuracy of a rounded one, and ``quantization`` tells how that was made.
    ``file`` is its path in the folder, if it was kept beside the winner.
    """

    candidate: Candidate
    state: State
    reason: str
    rounds: int = 0
    median_s: float | None = None
    p90_s: float | None = None
    speed: Ratio | None = None
    size_bytes: int | None = None
    load_s: float | None = None
    verification: Verification | None = None
    quantization: Quantization | None = None
    file: Path | None = None

    @property
    def drop(self) -> float | None:
        """The points of accuracy that it loses: none if it is not rounded; None if not proven."""
        if self.verification is None:
            return None
        accuracy = self.verification.accuracy
        return 0.0 if accuracy is None else max(accuracy.drop, 0.0)


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """The winner, and the fate of every form.

    ``path`` is the winner's, None if nothing was published. Speeds are against ``baseline``, the
    simplest candidate that was timed. ``complete`` is False if the work was interrupted, or if the
    time was too short to make every form, or to prove all that you wanted to keep. ``seconds`` is
    the time that it took.
    """

    checkpoint: Checkpoint
    runtimes: tuple[str, ...]
    wishes: Wishes
    limits: Limits
    path: Path | None
    baseline: str | None
    results: tuple[Result, ...]
    left_out: tuple[LeftOut, ...]
    remarks: tuple[str, ...]
    seconds: float
    complete: bool

    @property
    def winner(self) -> Result | None:
        """The one that was published, or would have been if the work was interrupted."""
        return next((result for result in self.results if result.state == "winner"), None)
