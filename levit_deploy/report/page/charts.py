"""Charts as inline SVG, coloured by the classes of the page's style."""

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from levit_deploy.report.page.markup import element
from levit_deploy.text import counted

WIDTH, HEIGHT = 640, 236  # of the histogram, in CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 30, 54  # margins for the labels of a narrow window, too
BAR = 160  # pixels, of a bar in a table


def histogram(counts: Sequence[int], edges: Sequence[float], limit: float, label: str) -> Element:
    """Bars between logarithmic edges, in another colour beyond ``limit``, which has a line.

    ``counts`` of errors are one fewer than ``edges``; ``label`` is for the axis.
    """
    low, high = math.log10(edges[0]), math.log10(edges[-1])
    most = max(*counts, 1)
    floor = HEIGHT - BOTTOM

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - low) / (high - low), 1)

    def y(count: float) -> float:
        return round(floor - (floor - TOP) * count / most, 1)

    drawn = [
        element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(count), y2=y(count), class_="grid")
        for count in (0, most)
    ]
    drawn += [
        element("text", str(count), x=LEFT - 8, y=y(count) + 4, class_="end") for count in (0, most)
    ]
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            drawn.append(
                element(
                    "rect",
                    element("title", f"{counted(count, 'error')}, {left:.2g} to {right:.2g}"),
                    x=x(left) + 0.5,
                    y=y(count),
                    width=round(x(right) - x(left) - 1, 1),
                    height=round(floor - y(count), 1),
                    class_="bad" if left >= limit else "bar",
                )
            )
    for power in range(math.ceil(low), math.floor(high) + 1):
        drawn.append(element("text", f"{10.0**power:g}", x=x(10.0**power), y=floor + 21))
    drawn.append(element("line", x1=x(limit), x2=x(limit), y1=TOP - 8, y2=floor, class_="limit"))
    drawn.append(element("text", "allowed", x=x(limit), y=TOP - 12))
    drawn.append(element("text", label, x=(LEFT + WIDTH) / 2, y=HEIGHT - 6))
    beyond = sum(n for n, left in zip(counts, edges, strict=False) if left >= limit)
    tallest = max(range(len(counts)), key=lambda i: counts[i])
    said = (
        f"Histogram of {counted(sum(counts), 'error')}: {beyond} beyond the error allowed, most "
        f"between {edges[tallest]:.2g} and {edges[tallest + 1]:.2g} times it."
    )
    size = f"0 0 {WIDTH} {HEIGHT}"
    return element("svg", *drawn, viewBox=size, class_="chart", role="img", aria_label=said)


def bar(value: float, limit: float | None, most: float) -> Element:
    """A bar of ``value``, with a line at ``limit``; ``most`` fills the width."""
    bad = limit is not None and not value <= limit
    length = round(BAR * min(value / most, 1), 1)
    drawn = [element("rect", x=0, y=2, width=length, height=10, class_="bad" if bad else "bar")]
    if limit is not None:
        at = round(min(BAR * limit / most, BAR - 1), 1)
        drawn.append(element("line", x1=at, x2=at, y1=0, y2=14, class_="limit"))
    return element("svg", *drawn, width=BAR, height=14, aria_hidden="true")
