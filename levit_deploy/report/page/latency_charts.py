"""Charts of candidates: latency against lost accuracy, and latency alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element

from levit_deploy.report.page.markup import element
from levit_deploy.report.page.placing import LINE, Box, Label, place_label, rows_for

WIDTH, LEFT, EDGE = 640, 56, 616  # CSS pixels
TOP, FLOOR = 72, 292  # the line of no loss has room for labels above it
RADIUS, ROW, BAR_ROW = 6, 26, 44


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A candidate in a chart: milliseconds a batch with quartiles, and lost points of accuracy.

    ``number`` is its place in the table, and ``figures`` are for a reader. ``lost`` is None for one
    that was not judged. ``out`` is one that must not be published.
    """

    number: int
    name: str
    runtime: str
    figures: str
    ms: float
    low: float
    high: float
    lost: float | None
    winner: bool = False
    out: bool = False
    on_front: bool = False

    @property
    def label(self) -> str:
        """The number, the name and the runtime."""
        return f"{self.number} {self.name}, {self.runtime}"


@dataclass(frozen=True)
class _Axes:
    """Milliseconds to the right, from ``left`` to ``right``, and lost points down to ``most``."""

    left: float
    right: float
    most: float

    def x(self, ms: float) -> float:
        share = math.log(ms / self.left) / math.log(self.right / self.left)
        return round(LEFT + (EDGE - LEFT) * share, 1)

    def y(self, lost: float) -> float:
        return round(TOP + (FLOOR - TOP) * lost / self.most, 1)

    def place(self, mark: Mark) -> tuple[float, float]:
        return self.x(mark.ms), self.y(mark.lost or 0)

    def box(self, mark: Mark, y: float) -> Box:
        """The room of a mark and its quartiles."""
        middle, low, high = self.x(mark.ms), self.x(mark.low), self.x(mark.high)
        left, right = min(middle - RADIUS, low), max(middle + RADIUS, high)
        return left - 2, y - RADIUS - 2, right + 2, y + RADIUS + 2


def scatter(
    marks: Sequence[Mark], x_label: str, max_ms: float | None, max_lost: float | None, said: str
) -> Element:
    """Milliseconds to the right, on a logarithmic axis, and lost points downwards.

    Some mark has lost points. Those not judged are in a strip below. The front is drawn as steps,
    and a limit as a line if it is within the axes. ``said`` is the finding, to be read aloud.
    """
    judged = [mark for mark in marks if mark.lost is not None]
    axes = _Axes(
        left=min(mark.low for mark in marks) / 1.15,
        right=max(mark.high for mark in marks) * 1.15,
        most=max(mark.lost or 0 for mark in judged) * 1.12,
    )
    strip, bottom = _strip([mark for mark in marks if mark.lost is None], axes)
    limits, taken = _limits(axes, max_ms, max_lost, bottom)
    drawn = [*_grid(axes, bottom), *limits, *_front(judged, axes), *_labelled(judged, axes, taken)]
    text = element("text", x_label, x=WIDTH / 2, y=bottom + 44)
    return _chart([*drawn, *strip, text], bottom + 52, said)


def _grid(axes: _Axes, bottom: float) -> Iterator[Element]:
    yield element("text", "points of accuracy lost (up is better)", x=0, y=16, class_="start")
    for lost in round_numbers(0, axes.most):
        yield _line("grid", LEFT, axes.y(lost), EDGE, axes.y(lost))
        yield element("text", f"{lost:g}", x=LEFT - 8, y=axes.y(lost) + 4, class_="end")
    for ms in round_logarithms(axes.left, axes.right):
        yield _line("grid", axes.x(ms), TOP, axes.x(ms), bottom)
        yield element("text", f"{ms:g}", x=axes.x(ms), y=bottom + 20)


def _limits(
    axes: _Axes, max_ms: float | None, max_lost: float | None, bottom: float
) -> tuple[list[Element], list[Box]]:
    """A line for each limit within the axes, and the room that they take."""
    lines: list[Box] = []
    labels: list[Label] = []
    if max_ms is not None and axes.left < max_ms < axes.right:
        x = axes.x(max_ms)
        lines.append((x, TOP - LINE, x, bottom))
        labels.append(Label("allowed", x, TOP - 1.5 * LINE, "middle"))
    if max_lost is not None and max_lost < axes.most:
        y = axes.y(max_lost)
        lines.append((LEFT, y, EDGE, y))
        labels.append(Label("allowed", EDGE, y - LINE / 2, "end"))
    drawn = [_line("allowed", *line) for line in lines]
    return [*drawn, *map(_text, labels)], [*lines, *(label.box for label in labels)]


def _front(judged: Sequence[Mark], axes: _Axes) -> list[Element]:
    """Steps: for each latency, the least loss that it buys."""
    corners = sorted(axes.place(mark) for mark in judged if mark.on_front)
    if not corners:
        return []
    steps = "".join(f"H{x}V{y}" for x, y in corners)
    return [element("path", d=f"M{corners[0][0]},{corners[0][1]}{steps}", class_="front")]


def _labelled(judged: Sequence[Mark], axes: _Axes, taken: Sequence[Box]) -> list[Element]:
    """The judged marks, and labels that overlap nothing that is taken."""
    boxes = {mark.number: axes.box(mark, axes.y(mark.lost or 0)) for mark in judged}
    taken = [*taken, *boxes.values()]
    drawn, labels = list[Element](), list[Element]()
    for mark in sorted(judged, key=lambda mark: (not mark.winner, not mark.on_front)):
        box, (x, y) = boxes[mark.number], axes.place(mark)
        names = [mark.label, f"{mark.number} {mark.name}"] if mark.on_front or mark.winner else []
        label = place_label([*names, str(mark.number)], box, (0, LINE, WIDTH, FLOOR), taken)
        taken.append(label.box)
        labels.append(_text(label, mark))
        if math.hypot(label.x - x, label.y - y) > 1.5 * LINE:
            drawn.append(_line("leader", x, y, label.x, label.y))
        drawn.append(_shape(mark, axes, y))
    return drawn + labels


def _strip(marks: Sequence[Mark], axes: _Axes) -> tuple[list[Element], float]:
    """The marks that have no height, in as many rows as they need, and the bottom of the last."""
    if not marks:
        return [], FLOOR
    boxes = [axes.box(mark, 0) for mark in marks]
    labels = [Label(str(m.number), b[2] + 2, 0, "start") for m, b in zip(marks, boxes, strict=True)]
    rows = rows_for([(box[0], label.box[2]) for box, label in zip(boxes, labels, strict=True)])
    drawn = [
        _line("edge", LEFT, FLOOR, EDGE, FLOOR),
        element("text", "timed, not judged", x=LEFT + 4, y=FLOOR + 22, class_="start"),
    ]
    for mark, label, row in zip(marks, labels, rows, strict=True):
        y = FLOOR + 44 + row * ROW
        drawn += [_shape(mark, axes, y), _text(replace(label, y=y), mark)]
    return drawn, FLOOR + 38 + (max(rows) + 1) * ROW


def _shape(mark: Mark, axes: _Axes, y: float) -> Element:
    """A diamond for the winner, a cross if it is out, else a circle, filled if judged."""
    x, low, high = axes.x(mark.ms), axes.x(mark.low), axes.x(mark.high)
    title = element("title", f"{mark.label}: {mark.figures}")
    quartiles = [_line("quartiles", low, y, high, y)] if high - low > 2 * RADIUS else []  # visible
    if mark.winner:
        r = RADIUS + 2
        corners = f"M{x - r},{y}L{x},{y - r}L{x + r},{y}L{x},{y + r}Z"
        shape = element("path", d=corners, class_="winner")
    elif mark.out:
        r = RADIUS - 1
        ends = f"M{x - r},{y - r}L{x + r},{y + r}M{x - r},{y + r}L{x + r},{y - r}"
        shape = element("path", d=ends, class_="out")
    else:
        kind = "hollow" if mark.lost is None else "bar"
        shape = element("circle", cx=x, cy=y, r=RADIUS, class_=kind)
    return element("g", title, *quartiles, shape)


def _text(label: Label, mark: Mark | None = None) -> Element:
    kind = f"label {label.anchor}" + (" strong" if mark is not None and mark.winner else "")
    return element("text", label.text, x=label.x, y=label.y, class_=kind)


def latencies(marks: Sequence[Mark], said: str) -> Element:
    """A bar for the milliseconds of each candidate, the fastest first, under its name."""
    most = max(mark.high for mark in marks)
    drawn: list[Element] = []
    for place, mark in enumerate(sorted(marks, key=lambda mark: mark.ms)):
        top = place * BAR_ROW
        strong = " strong" if mark.winner else ""
        kind = "winner" if mark.winner else "bad" if mark.out else "bar"
        kind = "hollow" if kind == "bar" and mark.lost is None else kind
        bar = element("rect", x=1, y=top + 24, width=_length(mark.ms, most), height=10, class_=kind)
        low, high = 1 + _length(mark.low, most), 1 + _length(mark.high, most)
        drawn += [
            element("text", mark.label, x=1, y=top + 16, class_=f"name start{strong}"),
            element("text", mark.figures, x=WIDTH - 1, y=top + 16, class_=f"name end{strong}"),
            bar,
            _line("quartiles", low, top + 29, high, top + 29),
        ]
    return _chart(drawn, len(marks) * BAR_ROW, said)


def _length(ms: float, most: float) -> float:
    return round((WIDTH - 2) * ms / most, 1)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _chart(drawn: Sequence[Element], height: float, said: str) -> Element:
    size = f"0 0 {WIDTH} {height}"
    return element("svg", *drawn, viewBox=size, class_="chart", role="img", aria_label=said)


def round_logarithms(low: float, high: float) -> list[float]:
    """Round numbers between two, about evenly spread on a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    steps = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    within = [step for step in steps if low <= step <= high]
    return within if len(within) > 2 else round_numbers(low, high)


def round_numbers(low: float, high: float) -> list[float]:
    """The multiples of 1, 2 or 5 times a power of ten between two numbers, from three to eight."""
    power = math.ceil(math.log10(high - low))
    for step in (float(f"{digit}e{power - less}") for less in (0, 1, 2) for digit in (5, 2, 1)):
        multiples = range(math.ceil(low / step), math.floor(high / step) + 1)
        if len(multiples) > 2:
            break
    return [float(f"{n * step:.12g}") for n in multiples]
