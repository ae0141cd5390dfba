"""Free places for the marks and labels of a chart."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

Box = tuple[float, float, float, float]  # left, top, right, bottom

CHARACTER, LINE = 10, 20  # pixels, at most, in the larger type of a narrow window
NEAR = 8  # places that touch the mark


@dataclass(frozen=True)
class Label:
    """A text at a place; ``x`` is its start, middle or end, and ``y`` the middle of its line."""

    text: str
    x: float
    y: float
    anchor: Literal["start", "middle", "end"]

    @property
    def box(self) -> Box:
        """The room that it takes, at most."""
        width = CHARACTER * len(self.text) + 4
        left = self.x - width * {"start": 0, "middle": 0.5, "end": 1}[self.anchor]
        return left, self.y - LINE / 2, left + width, self.y + LINE / 2


def place_label(texts: Sequence[str], mark: Box, within: Box, taken: Iterable[Box]) -> Label:
    """Put the first text that has room beside a mark, or above or below it.

    The last text may also be farther away. The label stays ``within`` a box, and off the boxes that
    are ``taken``.
    """
    taken = [mark, *taken]
    for text in texts:
        for label in _places(text, mark)[: None if text == texts[-1] else NEAR]:
            inside = all(a <= b for a, b in zip(within[:2], label.box[:2], strict=True)) and all(
                a >= b for a, b in zip(within[2:], label.box[2:], strict=True)
            )
            if inside and not any(_overlap(label.box, box) for box in taken):
                return label
    return _places(texts[-1], mark)[0]


def _places(text: str, mark: Box) -> list[Label]:
    """The places for a text, the nearest first."""
    left, top, right, bottom = mark
    across, along = (left + right) / 2, (top + bottom) / 2
    above, below = top - LINE / 2, bottom + LINE / 2
    near = [
        Label(text, right + 4, along, "start"),
        Label(text, left - 4, along, "end"),
        Label(text, across, above, "middle"),
        Label(text, across, below, "middle"),
    ]
    corners = [
        *(Label(text, right, y, "start") for y in (above, below)),
        *(Label(text, left, y, "end") for y in (above, below)),
    ]
    steps = sorted(product(range(-8, 9), repeat=2), key=lambda step: math.hypot(*step))
    far = [Label(text, across + i * LINE, along + j * LINE, "middle") for i, j in steps]
    return near + corners + far


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def rows_for(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return a row for each span, the first one, so that no two spans of a row overlap."""
    rows, ends = [0] * len(spans), list[float]()
    for i in sorted(range(len(spans)), key=spans.__getitem__):
        start, end = spans[i]
        rows[i] = next((row for row, last in enumerate(ends) if last <= start), len(ends))
        ends[rows[i] : rows[i] + 1] = [end]
    return rows
