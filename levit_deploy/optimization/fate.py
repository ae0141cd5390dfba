"""The fate of every candidate of a contest, in figures and in words."""

from __future__ import annotations

import statistics
from pathlib import Path

from levit_deploy.optimization.contest import NO_TIME, Contest
from levit_deploy.optimization.entrant import Entrant
from levit_deploy.optimization.outcome import Result, State
from levit_deploy.optimization.race import LEVEL, Standing
from levit_deploy.timing import Ratio, percentile, ratio


def results(contest: Contest) -> tuple[Result, ...]:
    """The fate of every candidate, in their order."""
    return tuple(_result(contest, entrant) for entrant in contest.entrants.values())


def baseline(contest: Contest) -> str | None:
    """The simplest candidate that was timed."""
    return next((label for label in contest.entrants if contest.times.get(label)), None)


def ran_out_of_time(contest: Contest) -> bool:
    """Whether some candidate was not made, or not proven to be kept, for lack of time."""
    unproven = contest.limits.all and any(
        entrant.state is None and entrant.published is None for entrant in contest.entrants.values()
    )
    return unproven or any(entrant.reason == NO_TIME for entrant in contest.entrants.values())


def remarks(contest: Contest) -> tuple[str, ...]:
    """A sentence on the defaults of ``export`` if the winner is faster than they are here."""
    winner = contest.winner and contest.entrants[contest.winner].candidate
    if not winner or not winner.differs:
        return ()
    for label, entrant in contest.entrants.items():
        usual = entrant.candidate
        kind = (usual.runtime, usual.plan.target.name, usual.plan.precision)
        same = kind == (winner.runtime, winner.plan.target.name, winner.plan.precision)
        speed = _speed(contest, winner.label, label)
        if same and not usual.differs and speed and _state(contest, entrant) == "slower":
            return (
                f"levit-deploy export writes {label}, by default. Here "
                f"{' '.join(winner.differs)} makes it {speed.median:.2f} times as fast.",
            )
    return ()


def _result(contest: Contest, entrant: Entrant) -> Result:
    published = entrant.published
    taken = list(contest.times.get(entrant.label, {}).values())
    return Result(
        candidate=entrant.candidate,
        state=_state(contest, entrant),
        reason=_reason(contest, entrant),
        rounds=len(taken),
        median_s=statistics.median(taken) if taken else None,
        p90_s=percentile(taken, 90) if len(taken) > 1 else None,
        speed=_speed(contest, entrant.label, baseline(contest)),
        size_bytes=entrant.size_bytes,
        load_s=entrant.load_s,
        verification=None if published is None else published.verification,
        quantization=None if published is None else published.quantization,
        file=_kept(contest, entrant),
    )


def _kept(contest: Contest, entrant: Entrant) -> Path | None:
    """The name in the folder, of a proven file that is to stay beside the winner's."""
    is_kept = contest.limits.all and entrant.published is not None and entrant.state is None
    if not is_kept or entrant.label == contest.winner:
        return None
    return Path(entrant.path.parent.name, entrant.path.name)


def _speed(contest: Contest, label: str, against: str | None) -> Ratio | None:
    """How many times as fast one is as another, over the rounds that both ran."""
    own, other = contest.times.get(label, {}), contest.times.get(against or "", {})
    both = sorted(own.keys() & other.keys())
    return ratio([other[n] for n in both], [own[n] for n in both]) if len(both) > 1 else None


def _state(contest: Contest, entrant: Entrant) -> State:
    if entrant.state is not None:
        return entrant.state
    if contest.winner is None:
        return "left out"
    if entrant.label == contest.winner:
        return "winner"
    standing = contest.standing
    return "level" if standing is not None and entrant.label in standing.level else "slower"


def _reason(contest: Contest, entrant: Entrant) -> str:
    """A sentence about the state."""
    state, standing = _state(contest, entrant), contest.standing
    if entrant.state is not None or standing is None:
        return entrant.reason or UNKNOWN
    if state == "left out":
        return UNKNOWN
    if state == "winner":
        return _why_it_won(contest, standing)
    unjudged = entrant.candidate.is_rounded and entrant.published is None
    note = " It was rounded on noise and not judged." if unjudged else ""
    if state == "level" and entrant.label in standing.told:
        return f"As fast as the winner, within {LEVEL:.0%}, and less simple.{note}"
    if state == "level":
        return f"The rounds tell no difference from the winner.{note}"
    against = contest.winner
    if (speed := _speed(contest, entrant.label, against)) is None:
        against = baseline(contest)
        speed = _speed(contest, entrant.label, against)
    return f"{speed.median:.2f} times as fast as {against}.{note}" if speed else f"Slower.{note}"


def _why_it_won(contest: Contest, standing: Standing) -> str:
    level = [
        label
        for label in standing.level
        if label != contest.winner and contest.entrants[label].state is None
    ]
    if not level:
        return "The fastest."
    others = " and ".join(level)
    if standing.told == standing.level:
        return f"As fast as {others}, and simpler."
    if standing.settled:
        return f"The rounds tell no difference from {others}, and it is simpler."
    return f"The time was up before the rounds told a difference from {others}."


UNKNOWN = "The work ended before it was compared."
