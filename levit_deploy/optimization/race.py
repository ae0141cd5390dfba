"""A race of timers: all take turns, and those that are surely slower drop out early.

It is successive halving with a test in place of the half. After 12 rounds, and each time their
number has doubled, every timer is compared with the fastest, round by round, as the machine's speed
changes between rounds. Wilcoxon's signed-rank test of the logarithms of the ratios asks three
questions. Is it slower? Then it drops out. Is it neither 2 % slower nor 2 % faster? Then the two
are level. If neither is sure, the two run on.

Every look could be wrong, and so could every comparison. So they share the risk (Bonferroni): a
race drops the fastest of all with a probability of at most RISK.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

LOOKS = (12, 24, 48, 96, 192, 384)  # rounds; twelve are the fewest that can settle ten comparisons
FEWEST = 3  # rounds, even if the time is up: a large batch may take seconds
RISK = 0.02  # of dropping a timer that is not slower
LEVEL = 0.02  # a share of the time that is too small to care about
LEVEL_RISK = 0.05  # of calling two level that differ by more

Times = dict[str, dict[int, float]]  # seconds of each timer, by round


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The outcome of a race.

    ``fastest`` has the least median time. ``level`` are those that are not surely slower, itself
    among them, in the order of the timers. ``told`` are those of them that were shown to be as
    fast, within LEVEL: the others differ by less than the rounds can tell. ``settled`` is False if
    more time could tell.
    """

    fastest: str
    level: tuple[str, ...]
    told: tuple[str, ...]
    settled: bool = True


def race(
    timers: Mapping[str, Callable[[], float]],
    times: Times,
    *,
    time_is_up: Callable[[], bool] = lambda: False,
    dropped: Callable[[str], object] = lambda _name: None,
    progress: Callable[[int, int], object] = lambda _rounds, _left: None,
) -> Standing | None:
    """Time until the fastest stands out, or all that are left are level with it.

    A timer runs something once and returns its seconds, or NaN if it failed: that ends its race.
    Rounds are added to ``times``, which may have some of an earlier race. ``dropped`` is told the
    name of a timer that is out, and now and then ``progress`` the rounds so far with the number of
    timers left. Returns None if every timer failed.
    """
    running = list(timers)
    in_turn, start = random.Random(0), max((n for t in times.values() for n in t), default=-1) + 1
    for name in timers:
        times.setdefault(name, {})

    def out(name: str) -> None:
        running.remove(name)
        dropped(name)

    for rounds in LOOKS:
        for done in range(_common(times, running), rounds):
            if done >= FEWEST and time_is_up():
                break
            for name in in_turn.sample(running, len(running)):
                seconds = timers[name]()
                if math.isnan(seconds):
                    out(name)
                else:
                    times[name][start] = seconds
            start += 1
            if (done + 1) % LOOKS[0] == 0:
                progress(done + 1, len(running))
        if not running:
            return None
        standing = _standing(times, running, len(timers))
        for name in set(running) - set(standing.level):
            out(name)
        if standing.told == standing.level:
            return standing
        if time_is_up():
            return replace(standing, settled=False)
    return standing


def log_ratios(times: Times, name: str, other: str) -> npt.NDArray[np.float64]:
    """The logarithms of one's time over the other's, in the rounds that both ran."""
    both = sorted(times[name].keys() & times[other].keys())
    return np.array([math.log(times[name][n] / times[other][n]) for n in both])


def is_slower(logs: npt.NDArray[np.float64], risk: float) -> bool:
    """Whether positive logarithms of ratios are no matter of chance."""
    return _p_value(logs, "greater") < risk


def is_level(logs: npt.NDArray[np.float64]) -> bool:
    """Whether logarithms of ratios are within LEVEL of zero, by two tests to either side."""
    margin = math.log1p(LEVEL)
    if _p_value(logs - margin, "less") >= LEVEL_RISK:
        return False
    return _p_value(logs + margin, "greater") < LEVEL_RISK


def _p_value(logs: npt.NDArray[np.float64], alternative: str) -> float:
    from scipy.stats import wilcoxon

    if not logs.any():  # equal in every round, as on a coarse clock
        return 1.0
    # the normal distribution has no such tails as a dozen rounds; for hundreds it takes no time
    method = "exact" if len(logs) <= LOOKS[1] else "asymptotic"
    tested = wilcoxon(logs, alternative=alternative, zero_method="zsplit", method=method)
    return float(tested.pvalue)


def _standing(times: Times, running: Sequence[str], entered: int) -> Standing:
    fastest = min(running, key=lambda name: _median(times, name, running))
    risk = RISK / len(LOOKS) / max(entered - 1, 1)
    logs = {name: log_ratios(times, name, fastest) for name in running}
    level = tuple(n for n in running if n == fastest or not is_slower(logs[n], risk))
    told = tuple(n for n in level if n == fastest or is_level(logs[n]))
    return Standing(fastest=fastest, level=level, told=told)


def _median(times: Times, name: str, running: Sequence[str]) -> float:
    """The median over the rounds that all ran: other rounds may be of another speed."""
    rounds = set.intersection(*(set(times[other]) for other in running))
    return float(np.median([times[name][n] for n in rounds]))


def _common(times: Times, running: Sequence[str]) -> int:
    """The number of rounds that all ran."""
    return len(set.intersection(*(set(times[name]) for name in running))) if running else 0
