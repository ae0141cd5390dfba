"""Limits with confidence, beside their definitions: the probabilities of every outcome."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import binom, binomtest

from levit_deploy.verification.confidence import (
    RISK,
    RISK_OF_BETTER,
    limit_of_loss,
    limit_of_share,
    pictures_needed,
)

limit = cache(limit_of_loss)


def outcomes(n):
    """All numbers of pictures changed for the worse, and for the better."""
    return np.array([(worse, better) for worse in range(n + 1) for better in range(n + 1 - worse)])


def probabilities(n, p, q):
    """The probability of each of ``outcomes``, by the multinomial formula."""
    counts = np.concatenate([outcomes(n), n - outcomes(n).sum(1, keepdims=True)], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(counts > 0, counts * np.log([p, q, max(0, 1 - p - q)]), 0)
    return np.exp(gammaln(n + 1) + (logs - gammaln(counts + 1)).sum(1))


def test_the_loss_is_within_the_limit_in_95_draws_of_100():
    n = 10
    limits = np.array([limit(worse, better, n) for worse, better in outcomes(n).tolist()])
    shares = np.linspace(0, 1, 41)
    coverages = [
        probabilities(n, p, q)[limits >= p - q].sum()
        for p in shares
        for q in shares
        if p + q <= 1 + 1e-12
    ]
    assert min(coverages) >= 0.95 - 1e-9
    assert min(coverages) < 0.97  # a limit that is no larger than it has to be


def test_as_many_draws_of_many_pictures_are_within_it():
    rng, n, draws = np.random.default_rng(0), 100, 400
    held = []
    for p, q in rng.uniform(0, 0.05, (draws, 2)):
        worse, better, _ = rng.multinomial(n, [p, q, 1 - p - q]).tolist()
        held.append(limit(worse, better, n) >= p - q)
    deviation = math.sqrt(0.05 * 0.95 / draws)
    assert 0.95 - 2 * deviation < np.mean(held) < 0.99


@pytest.mark.parametrize("n", [1, 30, 416, 1000])
def test_pictures_without_a_change_leave_open_what_a_binomial_does(n):
    exact = 1 - RISK ** (1 / n)  # a share of which n pictures would show none
    assert exact <= limit(0, 0, n) <= 1.006 * exact
    assert limit_of_share(0, n) == pytest.approx(1 - 0.05 ** (1 / n))


@pytest.mark.parametrize(("changed", "n"), [(1, 30), (7, 416), (29, 30)])
def test_the_limit_of_a_share_makes_so_few_changes_rare(changed, n):
    assert binom.cdf(changed, n, limit_of_share(changed, n)) == pytest.approx(0.05)


def test_the_limit_is_the_largest_loss_that_is_not_rejected():
    n, worse, better = 15, 3, 2
    score = outcomes(n) @ [1, -1] + 1.75 * np.sqrt(outcomes(n).sum(1) + 1)
    no_more = score <= worse - better + 1.75 * math.sqrt(worse + better + 1)
    shares = np.linspace(0, 1, 101)
    largest = max(
        p - q
        for q in shares
        if min(binom.cdf(better, n, q), binom.sf(better - 1, n, q)) > RISK_OF_BETTER / 2
        for p in shares[shares <= 1 - q]
        if probabilities(n, p, q)[no_more].sum() > RISK
    )
    assert largest <= limit(worse, better, n) <= largest + 2 / 100


def test_the_limit_is_sharper_than_that_of_two_shares_apart():
    largest, smallest = (binomtest(6, 416).proportion_ci(0.95)[i] for i in (1, 0))
    assert limit(6, 6, 416) < 0.62 * (largest - smallest)


def test_a_limit_grows_with_the_loss_and_shrinks_with_pictures():
    assert limit(0, 5, 100) < limit(2, 5, 100) < limit(2, 2, 100) < limit(4, 2, 100)
    assert limit(20, 20, 1000) < limit(2, 2, 100)
    assert (limit(0, 30, 30), limit(30, 0, 30)) == (0, 1)


@pytest.mark.parametrize(
    ("worse", "better", "n", "allowed"),
    [
        (0, 0, 416, 0.003),
        (3, 3, 416, 0.005),
        (2, 0, 1000, 0.003),
        (1, 1, 1000, 0.003),
        (5, 5, 100, 0.05),
    ],
)
def test_so_many_pictures_show_what_is_allowed(worse, better, n, allowed):
    needed = pictures_needed(worse, better, n, allowed)
    times = needed / n
    then = limit(round(worse * times), round(better * times), needed)
    assert 0.85 * allowed < then < 1.06 * allowed
    assert limit(worse, better, n) > allowed


def test_no_number_shows_what_is_lost_already():
    assert pictures_needed(3, 0, 1000, 0.003) is None
    assert pictures_needed(0, 0, 1000, 0) is None
    assert pictures_needed(0, 2, 1000, 0) is not None
