"""The largest loss that 95 % confidence leaves open, from the pictures whose answers changed.

Of n pictures, c changed for the worse and b for the better. Each has the same unknown chance p to
change for the worse, and q to change for the better, so the loss is p - q. The limit is exact: it
is below the loss in at most 5 % of all draws of n pictures, for any p, q and n.

Buehler, "Confidence intervals for the product of two binomial parameters", 1957. All outcomes are
ranked by a score that was fixed before the draw. A pair (p, q) is rejected if it makes an outcome
that scores no more than the one seen as rare as a risk. That rejects the true pair in at most as
many draws, so the largest p - q that is not rejected is a limit.

Berger and Boos, "P values maximized over a confidence set", 1994. It is enough to look for q within
its own exact interval, if both risks together are 5 %.

The score only decides how sharp the limit is. This one is nearly a limit itself: the loss seen, and
its standard deviation some times, which is the root of the number of changes.
"""

import heapq
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RISK_OF_BETTER, RISK = 0.001, 0.049  # that q is outside its interval, and that the rest is wrong
DEVIATIONS = 1.75  # in the score: 1.645 is sharper by up to 2 %, and takes twice as long
PRECISION = 0.005  # of the limit, which is rounded up


def limit_of_share(changed: int, pictures: int) -> float:
    """The upper limit, by Clopper and Pearson, of a share seen in so many pictures."""
    from scipy.stats import binomtest

    return float(binomtest(changed, pictures, alternative="less").proportion_ci(CONFIDENCE).high)


def limit_of_loss(worse: int, better: int, pictures: int) -> float:
    """The upper limit of the share lost, 0 or more; the module explains it."""
    from scipy.stats import binomtest

    largest_share = _largest_share(worse, better, pictures)
    low, high = binomtest(better, pictures).proportion_ci(1 - RISK_OF_BETTER)
    best: float = max(0.0, largest_share(low) - low)
    # As the share p that is not rejected grows with q, it is at most p(right) between two q, and
    # p - q at most p(right) - left. The interval with the largest such bound is halved, until it is
    # close to a difference that is there.
    intervals = [_interval(low, high, largest_share(high))]
    while True:
        negative_bound, left, right, share = heapq.heappop(intervals)
        if -negative_bound <= best + max(PRECISION * best, 1e-6):
            return max(-negative_bound, best)
        middle = (left + right) / 2
        middle_share = largest_share(middle)
        best = max(best, middle_share - middle)
        heapq.heappush(intervals, _interval(left, middle, middle_share))
        heapq.heappush(intervals, _interval(middle, right, share))


def _interval(left: float, right: float, share: float) -> tuple[float, float, float, float]:
    """The bound of p - q, negative for the heap, the ends, and p at the right one."""
    at_border = share >= 1 - right  # p and q are all there is, so p may be larger at a smaller q
    return left - (1 - left if at_border else share), left, right, share


def _largest_share(worse: int, better: int, n: int) -> Callable[[float], float]:
    """The largest p that is not rejected, as a function of q.

    The outcomes that score no more have at most so many changed for the worse for each number b
    changed for the better. Their probability falls with p and grows with q, because a picture moves
    out of these outcomes if it changes for the worse, and never if it changes for the better.
    """
    from scipy.optimize import brentq
    from scipy.special import bdtr
    from scipy.stats import binom

    score = worse - better + DEVIATIONS * math.sqrt(worse + better + 1)

    def most_worse(b: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        # c - b + k sqrt(c + b + 1) <= score is a quadratic inequality of that root
        constant = score + 1 + 2 * b
        root = (np.sqrt(np.maximum(DEVIATIONS**2 + 4 * constant, 0)) - DEVIATIONS) / 2
        most = np.floor(root**2 - 1 - b + 1e-9)
        return np.where(root < 0, -1, np.minimum(most, n - b))

    def largest_share(q: float) -> float:
        around = 9 * math.sqrt(n * q * (1 - q)) + 40  # all but 1e-15 of the probability
        b = np.arange(max(0, math.floor(n * q - around)), min(n, math.ceil(n * q + around)) + 1)
        b = b[most_worse(b) >= 0]  # others score more, whatever changes for the worse
        chances, most, others = binom.pmf(b, n, q), most_worse(b), n - b

        def excess(p: float) -> float:
            """The probability of the outcomes that score no more, beyond the risk."""
            of_the_others = min(1.0, p / (1 - q)) if q < 1 else 0.0
            return float(chances @ bdtr(most, others, of_the_others)) - RISK

        if excess(0) <= 0:
            return 0.0
        return 1 - q if excess(1 - q) > 0 else float(brentq(excess, 0, 1 - q, xtol=1e-9))

    return largest_share


def pictures_needed(worse: int, better: int, pictures: int, allowed: float) -> int | None:
    """About how many pictures would show ``allowed``, a share, if the changes keep their shares.

    None if the loss seen leaves no room. With room r for a share d of changes, n pictures show it
    once n r is the 1.645 standard deviations of n (d + r) changes, by the normal approximation. By
    the rule of three, n r is at least 3: so many must be seen to expect one, surely enough.
    """
    room = allowed - (worse - better) / pictures
    if room <= 0:
        return None
    changes = (worse + better) / pictures
    return math.ceil(max(2.706 * (changes + room) / room**2, -math.log(RISK) / room))
