"""Time several callables side by side, fairly on a noisy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


def rounds_side_by_side(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 3,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Return each callable's time in every round, in seconds.

    The callables take turns, one call each a round, so that a change in the machine's speed meets
    all of them alike. The first ``warmup`` rounds are not counted. ``progress`` is called after
    every round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warmup + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        progress()
    return {name: taken[warmup:] for name, taken in times.items()}


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a baseline: the median over the rounds, and its quartiles."""

    median: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """'faster' or 'slower' only where three rounds of four say so, else 'level'."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "level"


def ratio(baseline: Sequence[float], taken: Sequence[float]) -> Ratio:
    """Compare round by round, at least two rounds: the machine was the same for both within one."""
    ratios = [base / time for base, time in zip(baseline, taken, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, low, high)


def percentile(taken: Sequence[float], percent: int) -> float:
    """The time that ``percent`` of the rounds did not exceed; at least two rounds."""
    return statistics.quantiles(taken, n=100, method="inclusive")[percent - 1]
