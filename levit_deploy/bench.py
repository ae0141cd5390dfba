"""Time several callables side by side, fairly on a noisy machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median


def time_side_by_side(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 3
) -> dict[str, float]:
    """Return each callable's median time in seconds, from ``rounds_side_by_side``."""
    taken = rounds_side_by_side(calls, rounds=rounds, warmup=warmup)
    return {name: median(times) for name, times in taken.items()}


def rounds_side_by_side(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Return each callable's time in every round, in seconds.

    The callables take turns, one call each a round, so that a change in the machine's speed meets
    all of them alike. The first ``warmup`` rounds are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warmup + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: taken[warmup:] for name, taken in times.items()}
