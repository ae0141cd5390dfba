"""The Pareto front: the choices between speed and accuracy that nothing else beats."""

from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Tell for each latency and loss that no other point is better in one and as good in both."""
    return [
        not any(
            other != point and other[0] <= point[0] and other[1] <= point[1] for other in points
        )
        for point in points
    ]
