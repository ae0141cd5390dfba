"""Remember what a network computed, for the threads and the proofs that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

Key = tuple[object, ...]
Answers = dict[Key, "Future[Any]"]  # by what tells it apart; perhaps it is still to come


@dataclass(frozen=True)
class Claim:
    """Answers that were asked for, and the ``places`` of those that are to be computed here."""

    futures: Sequence[Future[Any]]
    places: Sequence[int]

    def fulfil(self, results: Sequence[Any]) -> None:
        """Give the results of the places, in order."""
        for place, result in zip(self.places, results, strict=True):
            self.futures[place].set_result(result)


@contextmanager
def claimed(known: Answers, keys: Sequence[Key]) -> Iterator[Claim]:
    """Claim the answers that are not known, so that one thread computes each for all.

    What the block does not give is unknown again, and those who wait are told why: by its error, or
    CancelledError if there is none.
    """
    mine: list[Future[Any]] = [Future() for _ in keys]
    futures = [known.setdefault(key, own) for key, own in zip(keys, mine, strict=True)]
    places = [i for i, future in enumerate(futures) if future is mine[i]]
    reason: BaseException = CancelledError()
    try:
        yield Claim(futures, places)
    except BaseException as error:
        reason = error
        raise
    finally:
        for place in places:
            if not futures[place].done():
                del known[keys[place]]
                futures[place].set_exception(reason)


def remembered(known: Answers, key: Key, compute: Callable[[], Any]) -> Any:
    """What is known, or else computed and known from now on."""
    while True:
        with claimed(known, [key]) as claim:
            if claim.places:
                claim.fulfil([compute()])
        with suppress(CancelledError):  # who claimed it had to stop
            return claim.futures[0].result()
