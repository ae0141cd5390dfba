import threading
import time

import pytest

from levit_deploy.prediction.ahead import map_ahead


def test_results_come_in_the_order_of_the_items_whichever_is_done_first():
    def slow_first(i):
        time.sleep(0.02 * (5 - i % 6))
        return i

    assert list(map_ahead(slow_first, range(12), threads=4, ahead=6)) == list(range(12))


def test_no_more_is_done_than_that_far_ahead():
    taken, done = [], []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_ahead(done.append, items(), threads=2, ahead=5)
    for asked in range(1, 11):
        next(results)
        time.sleep(0.005)  # for the threads to run on, if they would
        assert len(done) <= len(taken) <= asked + 4
    results.close()
    assert len(done) < 20


def test_it_is_done_while_the_caller_is_busy():
    everything = threading.Event()
    counted = []

    def count(i):
        counted.append(i)
        if len(counted) == 4:
            everything.set()
        return i

    results = map_ahead(count, range(9), threads=1, ahead=4)
    assert next(results) == 0
    assert everything.wait(5)  # though nobody asks for the others


def test_an_error_comes_in_its_place_and_ends_it():
    def refuse(i):
        if i == 3:
            raise ValueError("three")
        return i

    results = map_ahead(refuse, range(100), threads=4, ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_leaving_early_leaves_no_thread_behind():
    before = threading.active_count()
    results = map_ahead(time.sleep, [0.01] * 1000, threads=3, ahead=500)
    next(results)
    begin = time.monotonic()
    results.close()
    assert threading.active_count() == before
    assert time.monotonic() - begin < 1  # what was waiting was not done
