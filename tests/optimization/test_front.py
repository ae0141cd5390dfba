"""The Pareto front, beside a sweep from the fastest to the slowest."""

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from levit_deploy.optimization.front import on_front

COARSE = st.integers(0, 5).map(float)  # so that many are equal in one, or in both


def swept(points):
    """The points that lose less than all that are faster, and the least of their latency."""
    front, least = set(), float("inf")
    for latency, group in groupby(sorted(set(points)), key=lambda point: point[0]):
        loss = min(loss for _, loss in group)
        if loss < least:
            front.add((latency, loss))
            least = loss
    return front


@given(st.lists(st.tuples(COARSE, COARSE)))
def test_the_front_is_what_a_sweep_leaves(points):
    chosen = [point for point, is_on in zip(points, on_front(points), strict=True) if is_on]
    assert set(chosen) == swept(points)
    assert len(chosen) == sum(point in swept(points) for point in points)  # equals are all on it
