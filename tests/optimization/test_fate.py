"""The record tells why a form won, and whether the time was too short."""

import pytest

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.optimization.candidate import candidates
from levit_deploy.optimization.contest import Contest
from levit_deploy.optimization.fate import ran_out_of_time, results
from levit_deploy.optimization.race import Standing
from levit_deploy.optimization.rules import Limits, Wishes

SPATIAL, TOKENS = "spatial, onnxruntime", "tokens, onnxruntime"


@pytest.fixture
def contest(proven, tmp_path):
    """A contest of forms that were timed, and none proven."""
    checkpoint = read_checkpoint(proven / "ckpt.pth")
    several, _ = candidates(checkpoint, ["onnxruntime"], Wishes(), judged=False)
    contest = Contest(several, Limits(threads=1, time_limit=60, all=True), 1, tmp_path)
    contest.times = {label: {0: 1.0, 1: 1.0} for label in contest.entrants}
    return contest


@pytest.mark.parametrize(
    ("level", "told", "settled", "reason"),
    [
        ((SPATIAL,), (SPATIAL,), True, "The fastest."),
        ((SPATIAL, TOKENS), (SPATIAL, TOKENS), True, f"As fast as {TOKENS}, and simpler."),
        (
            (SPATIAL, TOKENS),
            (TOKENS,),
            True,
            f"The rounds tell no difference from {TOKENS}, and it is simpler.",
        ),
        (
            (SPATIAL, TOKENS),
            (SPATIAL,),
            False,
            f"The time was up before the rounds told a difference from {TOKENS}.",
        ),
    ],
)
def test_a_winner_is_called_simpler_or_as_fast_only_if_it_is(contest, level, told, settled, reason):
    contest.standing = Standing(fastest=told[0], level=level, told=told, settled=settled)
    contest.winner = SPATIAL
    assert results(contest)[0].reason == reason


def test_forms_that_were_to_be_kept_and_are_not_proven_are_a_lack_of_time(contest):
    assert ran_out_of_time(contest)
    for entrant in contest.entrants.values():
        entrant.out("refused", "It computes another function.")
    assert not ran_out_of_time(contest)
