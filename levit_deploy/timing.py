"""Time several callables side by side, fairly even on a noisy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial


def rounds_side_by_side(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Return each callable's time in every round, in seconds by ``clock``, as ``in_turns`` does."""
    timers = {name: partial(seconds_of, call, clock) for name, call in calls.items()}
    return in_turns(timers, rounds=rounds, warmup=warmup, progress=progress)


def in_turns(
    timers: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    warmup: int = 3,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds that each timer gives in every round.

    A timer runs something once, and returns its time by a clock of its own choice. The timers take
    turns, with one call each a round. So a change in the machine's speed affects all of them alike.
    The first ``warmup`` rounds do not count, and ``progress`` is called after every round.
    """
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(warmup + rounds):
        for name, timer in timers.items():
            times[name].append(timer())
        progress()
    return {name: taken[warmup:] for name, taken in times.items()}


def seconds_of(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time that one call takes, in seconds by ``clock``."""
    start = clock()
    call()
    return clock() - start


@dataclass(frozen=True)
class Ratio:
    """The speed relative to a baseline: the median over the rounds, and its quartiles."""

    median: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """'faster' or 'slower' if at least three rounds in four agree, else 'level'."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "level"


def ratio(baseline: Sequence[float], taken: Sequence[float]) -> Ratio:
    """Compare two or more rounds, each within itself, as the machine's speed changes between."""
    ratios = [base / time for base, time in zip(baseline, taken, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle, low, high)


def percentile(taken: Sequence[float], percent: int) -> float:
    """The time that ``percent`` of the rounds, at least two, did not exceed."""
    return statistics.quantiles(taken, n=100, method="inclusive")[percent - 1]
