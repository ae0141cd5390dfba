import threading

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


@pytest.mark.parametrize("error", [ValueError("odd"), None])
def test_a_claim_that_is_given_up_is_told_to_who_waits_and_can_be_made_again(error):
    known, told = {}, []

    def wait():
        try:
            remembered(known, ("key",), lambda: 1)
        except BaseException as reason:
            told.append(reason)

    def give_up():
        with claimed(known, [("key",)]):
            waiting = threading.Thread(target=wait)
            waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive()
            threads.append(waiting)
            if error:
                raise error

    threads = []
    if error:
        with pytest.raises(ValueError, match="odd"):
            give_up()
    else:
        give_up()
    threads[0].join(60)
    assert len(told) == 1
    assert not error or told == [error]
    assert remembered(known, ("key",), lambda: 1) == 1
