import threading
import time

import pytest

from levit_deploy.verification.answers import claimed, remembered


def test_one_thread_computes_for_all_that_ask():
    known, asked, computed = {}, threading.Event(), []

    def compute():
        computed.append(threading.get_ident())
        asked.wait(60)
        return 7

    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(remembered(known, ("key",), compute)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    asked.set()
    for thread in threads:
        thread.join(60)
    assert answers == [7, 7, 7]
    assert len(computed) == 1


def test_what_is_known_is_not_claimed_again():
    known = {}
    assert remembered(known, ("b",), lambda: 2) == 2
    with claimed(known, [("a",), ("b",), ("c",), ("a",)]) as claim:
        assert claim.places == [0, 2]
        claim.fulfil([1, 3])
    assert [future.result() for future in claim.futures] == [1, 2, 3, 1]


def test_a_claim_that_fails_is_told_to_who_waits_and_can_be_made_again():
    known, told = {}, []

    def wait():
        try:
            remembered(known, ("key",), lambda: 1)
        except ValueError as reason:
            told.append(reason)

    def fail():
        with claimed(known, [("key",)]):
            waiting.start()
            time.sleep(0.2)
            assert not told
            raise ValueError("odd")

    waiting = threading.Thread(target=wait)
    with pytest.raises(ValueError, match="odd"):
        fail()
    waiting.join(60)
    assert [str(reason) for reason in told] == ["odd"]
    assert remembered(known, ("key",), lambda: 1) == 1


def test_who_waits_for_a_claim_that_stopped_computes_it():
    known, answers = {}, []
    waiting = threading.Thread(
        target=lambda: answers.append(remembered(known, ("key",), lambda: 5))
    )
    with claimed(known, [("key",)]):
        waiting.start()
        time.sleep(0.2)
        assert not answers
    waiting.join(60)
    assert answers == [5]
