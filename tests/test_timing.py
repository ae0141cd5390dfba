import itertools
import random
import time

import pytest

from levit_deploy.timing import Ratio, in_turns, percentile, ratio, rounds_side_by_side


def test_callables_take_turns_and_the_warmup_is_not_counted():
    calls, rounds = [], []
    pauses = {"slow": iter([0.3] + [0.02] * 5), "fast": iter([0.3] + [0.001] * 5)}

    def pause(name):
        calls.append(name)
        time.sleep(next(pauses[name]))

    times = rounds_side_by_side(
        {"slow": lambda: pause("slow"), "fast": lambda: pause("fast")},
        rounds=5,
        warmup=1,
        progress=lambda: rounds.append(len(calls)),
    )
    assert calls == ["slow", "fast"] * 6
    assert rounds == [2, 4, 6, 8, 10, 12]
    assert len(times["slow"]) == len(times["fast"]) == 5
    assert all(0.02 <= taken < 0.3 for taken in times["slow"])


def test_by_the_processors_time_waiting_takes_none():
    """As a call waits while another program has the processor."""
    calls = {"waits": lambda: time.sleep(0.05), "works": lambda: sum(range(200_000))}
    times = rounds_side_by_side(calls, rounds=3, warmup=0, clock=time.thread_time)
    assert max(times["waits"]) < min(times["works"])


def test_a_ratio_is_taken_round_by_round():
    found = ratio([2.0, 4.0, 6.0, 8.0, 10.0], [1.0, 1.0, 2.0, 8.0, 5.0])  # 2, 4, 3, 1, 2
    assert found == Ratio(2.0, 2.0, 3.0)


def test_two_copies_are_level_on_a_machine_that_slows_down():
    """And a form that is a tenth slower is told from them."""
    chance, load = random.Random(0), itertools.count(1)

    def timer(seconds):
        return lambda: seconds * (1 + next(load) / 60) * chance.uniform(0.98, 1.04)

    timers = {"one": timer(0.01), "copy": timer(0.01), "slower": timer(0.011)}
    times = in_turns(timers, rounds=40)
    assert ratio(times["one"], times["copy"]).verdict == "level"
    assert ratio(times["one"], times["slower"]).verdict == "slower"
    assert max(times["one"]) > 2 * min(times["one"])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.01, 1.2, "faster"), (0.8, 0.99, "slower"), (0.99, 1.3, "level"), (1.0, 1.0, "level")],
)
def test_a_difference_within_the_spread_is_no_win(low, high, verdict):
    assert Ratio((low + high) / 2, low, high).verdict == verdict


def test_the_percentile_by_hand():
    assert percentile([float(i) for i in range(11)], 90) == 9.0
