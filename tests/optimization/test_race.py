"""A race publishes the faster one of two, and calls equals level."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from levit_deploy.optimization.race import FEWEST, LEVEL, LOOKS, is_level, is_slower, race

RUNS = 1000
NOISE = 0.1


def timer(speed, noise, rng):
    """Seconds of a stub: ``speed`` on average, with independent noise on their logarithms."""
    return iter(speed * np.exp(noise * rng.standard_normal(2 * LOOKS[-1]))).__next__


def simulated(seconds, noise, seed):
    rng = np.random.default_rng(seed)
    times = {}
    timers = {name: timer(value, noise, rng) for name, value in seconds.items()}
    return race(timers, times), times


def test_of_two_that_differ_by_five_percent_the_faster_is_published():
    wrong = 0
    for seed in range(RUNS):
        standing, _ = simulated({"simple": 1.05, "fast": 1.0}, NOISE, seed)
        wrong += standing.level[0] != "fast"
    assert wrong < 0.05 * RUNS


def test_two_that_do_not_differ_are_level_and_the_simpler_is_published():
    told = 0
    for seed in range(RUNS):
        standing, _ = simulated({"simple": 1.0, "other": 1.0}, NOISE, seed)
        told += standing.level == ("simple", "other")
    assert told > 0.95 * RUNS


def test_the_fastest_of_many_is_not_lost():
    """Every comparison could drop it, so the risk is shared among them."""
    names = [f"form{i}" for i in range(6)]
    lost = sum(
        "form5" not in simulated(dict.fromkeys(names, 1.0), NOISE, seed)[0].level
        for seed in range(50)
    )
    assert lost <= binom.ppf(0.999, 50, 0.02)


def test_the_slow_drop_out_early_and_the_rest_run_on():
    seconds = {"slow": 2.0, "slower": 3.0, "fast": 1.0, "level": 1.0}
    gone = []
    rng = np.random.default_rng(0)
    timers = {name: timer(value, NOISE, rng) for name, value in seconds.items()}
    standing = race(timers, times := {}, dropped=gone.append)
    assert sorted(gone) == ["slow", "slower"]
    assert len(times["slow"]) == len(times["slower"]) == LOOKS[0]
    assert len(times["fast"]) == len(times["level"]) > LOOKS[0]
    assert standing.level == ("fast", "level")


def test_little_noise_needs_few_rounds():
    _, times = simulated({"one": 1.0, "other": 1.0}, 0.005, 0)
    assert len(times["one"]) == LOOKS[0]


def test_a_change_in_the_machines_speed_is_no_difference():
    """It hits both in a round, so only the ratio counts."""
    machine = np.repeat(np.exp(np.random.default_rng(0).standard_normal(LOOKS[-1])), 2)
    each = iter(machine * np.exp(0.001 * np.random.default_rng(1).standard_normal(len(machine))))
    standing = race({"a": each.__next__, "b": lambda: 1.05 * next(each)}, {})
    assert standing.level == ("a",)


def test_a_timer_that_fails_is_out_and_no_other():
    broken = itertools.chain([1.0] * 5, itertools.repeat(math.nan)).__next__
    gone = []
    standing = race({"broken": broken, "good": lambda: 1.0}, {}, dropped=gone.append)
    assert standing.level == ("good",)
    assert gone == ["broken"]
    assert race({"broken": lambda: math.nan}, {}) is None


def test_an_earlier_race_is_gone_on_with():
    """Rounds that all ran count, and are not run again."""
    times = {"a": dict.fromkeys(range(LOOKS[1]), 1.0), "b": dict.fromkeys(range(LOOKS[0]), 1.5)}
    called = []
    race({"a": lambda: called.append("a") or 1.0, "b": lambda: called.append("b") or 1.5}, times)
    assert called == []
    times["c"] = {}
    timers = {name: lambda name=name: called.append(name) or 1.0 for name in "abc"}
    race(timers, times)
    assert called.count("c") == LOOKS[0]


def test_it_ends_when_the_time_is_up():
    """Not before every timer had a few turns, or nothing would be known."""
    rng = np.random.default_rng(0)
    timers = {name: timer(1.0, NOISE, rng) for name in "ab"}
    standing = race(timers, times := {}, time_is_up=lambda: True)
    assert len(times["a"]) == len(times["b"]) == FEWEST
    assert standing.level == ("a", "b")
    assert standing.told == (standing.fastest,)
    assert not standing.settled


@pytest.mark.parametrize("difference", [-0.5, -0.1, 0.0, 0.1, 0.5])
def test_level_and_slower_exclude_each_other(difference):
    logs = np.random.default_rng(0).normal(difference, 0.01, 50)
    assert is_slower(logs, 0.001) == (difference > 0)
    assert is_level(logs) == (difference == 0)
    assert not is_slower(np.zeros(50), 0.05)
    margin = np.log1p(LEVEL)
    assert not is_level(np.full(50, margin) + np.linspace(-1e-3, 1e-3, 50))
