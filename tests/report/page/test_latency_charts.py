"""The charts of candidates: every mark is at its figures."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levit_deploy.report.page.latency_charts import (
    EDGE,
    FLOOR,
    LEFT,
    TOP,
    Mark,
    latencies,
    round_logarithms,
    round_numbers,
    scatter,
)


def mark(number, ms, lost, low=None, high=None, **kind):
    figures = f"{ms} ms"
    names = {"name": "a <form>", "runtime": "torch", "figures": figures}
    return Mark(number=number, ms=ms, low=low or ms, high=high or ms, lost=lost, **names, **kind)


MARKS = [
    mark(1, 10, 1.0, winner=True, on_front=True),
    mark(2, 20, 0.5, low=15, high=30, on_front=True),
    mark(3, 40, 0.0, on_front=True),
    mark(4, 40, 1.0),
    mark(5, 5, 1.5, out=True),
    mark(6, 80, None),
    mark(7, 80, None),
]


def drawn(chart):
    """The shape of each mark by its number."""
    groups = {int(g.find("title").text.split()[0]): g for g in chart.findall("g")}
    return {number: group[-1] for number, group in groups.items()}, groups


def place(shape):
    """The middle of a shape."""
    if shape.tag == "circle":
        return float(shape.get("cx")), float(shape.get("cy"))
    numbers = [float(n) for n in re.findall(r"[-\d.]+", shape.get("d"))]
    xs, ys = numbers[::2], numbers[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def test_marks_are_at_their_latency_and_loss():
    shapes, groups = drawn(scatter(MARKS, "ms", None, None, "said"))
    at = {number: place(shape) for number, shape in shapes.items()}
    octave = at[2][0] - at[1][0]
    assert octave > 50
    assert at[3][0] - at[2][0] == pytest.approx(octave, abs=0.2)  # the axis is logarithmic
    assert at[6][0] - at[3][0] == pytest.approx(octave, abs=0.2)
    assert at[4][0] == at[3][0]
    assert at[3][1] == TOP
    assert at[1][1] - TOP == pytest.approx(2 * (at[2][1] - TOP), abs=0.2)
    assert at[5][1] - TOP == pytest.approx(3 * (at[2][1] - TOP), abs=0.2)
    assert at[5][1] < FLOOR < at[6][1] < at[7][1]  # those not judged are below, in two rows
    assert all(LEFT < x < EDGE for x, _ in at.values())
    assert groups[2].find("title").text == "2 a <form>, torch: 20 ms"


def test_quartiles_are_drawn_if_they_are_wider_than_the_mark():
    shapes, groups = drawn(scatter(MARKS, "ms", None, None, "said"))
    line = groups[2].find("line")
    left, right = float(line.get("x1")), float(line.get("x2"))
    octave = place(shapes[3])[0] - place(shapes[2])[0]
    assert right - left == pytest.approx(octave, abs=0.2)  # from 15 to 30 ms
    assert left < place(shapes[2])[0] < right
    assert [number for number, group in groups.items() if group.find("line") is not None] == [2]


def test_kinds_of_marks_differ_in_shape():
    shapes, _ = drawn(scatter(MARKS, "ms", None, None, "said"))
    kinds = {number: (shape.tag, shape.get("class")) for number, shape in shapes.items()}
    assert kinds[1] == ("path", "winner")
    assert kinds[2] == kinds[4] == ("circle", "bar")
    assert kinds[5] == ("path", "out")
    assert kinds[6] == kinds[7] == ("circle", "hollow")


def test_the_front_goes_through_its_marks_in_steps():
    chart = scatter(MARKS, "ms", None, None, "said")
    shapes, _ = drawn(chart)
    path = next(path for path in chart.findall("path") if path.get("class") == "front")
    x, y = re.match(r"M([\d.]+),([\d.]+)", path.get("d")).groups()
    corners, at = [], (float(x), float(y))
    for command, number in re.findall(r"([HV])([\d.]+)", path.get("d")):
        at = (float(number), at[1]) if command == "H" else (at[0], float(number))
        corners.append(at)
    for number in (1, 2, 3):
        assert place(shapes[number]) in [pytest.approx(corner, abs=0.1) for corner in corners]
    assert (place(shapes[2])[0], place(shapes[1])[1]) in [
        pytest.approx(corner, abs=0.1) for corner in corners
    ]  # to the right at the same loss, and then up


@pytest.mark.parametrize(("ms", "lost", "lines"), [(None, None, 0), (30, 0.7, 2), (999, 9, 0)])
def test_a_limit_is_a_line_if_it_is_within_the_axes(ms, lost, lines):
    chart = scatter(MARKS, "ms", ms, lost, "said")
    limits = [line for line in chart.findall("line") if line.get("class") == "allowed"]
    assert len(limits) == [text.text for text in chart.findall("text")].count("allowed") == lines
    if lines:
        shapes, _ = drawn(chart)
        upright, level = limits
        assert place(shapes[2])[0] < float(upright.get("x1")) < place(shapes[3])[0]
        assert place(shapes[2])[1] < float(level.get("y1")) < place(shapes[1])[1]


def test_every_mark_has_a_label_and_those_on_the_front_their_names():
    texts = [text.text for text in scatter(MARKS, "ms", None, None, "said").findall("text")]
    assert "1 a <form>, torch" in texts
    assert {"4", "5", "6", "7"} <= set(texts)


def test_a_bar_is_as_long_as_its_latency_and_the_fastest_comes_first():
    chart = latencies([mark(1, 20, 0.0, winner=True), mark(2, 40, None), mark(3, 10, 0.0)], "said")
    bars = chart.findall("rect")
    lengths = [float(bar.get("width")) for bar in bars]
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 2, 4], abs=0.01)
    assert [bar.get("class") for bar in bars] == ["bar", "winner", "hollow"]
    texts = [text.text for text in chart.findall("text")]
    assert texts == [
        *("3 a <form>, torch", "10 ms", "1 a <form>, torch", "20 ms", "2 a <form>, torch", "40 ms")
    ]
    assert (chart.get("role"), chart.get("aria-label")) == ("img", "said")


@given(st.floats(1e-3, 1e4), st.floats(1.3, 1e4))
def test_an_axis_has_a_few_multiples_of_a_round_number(low, factor):
    high = low * factor
    for start in (0, low):
        ticks = round_numbers(start, high)
        step = ticks[1] - ticks[0]
        assert 3 <= len(ticks) <= 8
        assert f"{step:.3e}"[:5] in ("1.000", "2.000", "5.000")
        assert start <= ticks[0] < start + 1.001 * step
        assert high - 1.001 * step < ticks[-1] <= high
        assert all(tick / step == pytest.approx(round(tick / step), abs=1e-3) for tick in ticks)


@given(st.floats(1e-3, 1e4), st.floats(12, 1e4))
def test_a_logarithmic_axis_has_1_2_and_5_of_every_decade(low, factor):
    high = low * factor
    ticks = round_logarithms(low, high)
    assert {f"{tick:.3e}"[:5] for tick in ticks} <= {"1.000", "2.000", "5.000"}
    assert all(low <= tick <= high for tick in ticks)
    ratios = [after / before for before, after in pairwise(ticks)]
    assert all(ratio < 2.6 for ratio in [ticks[0] / low, *ratios, high / ticks[-1]])


def test_a_short_logarithmic_axis_has_more():
    assert round_logarithms(11, 14) == [11, 12, 13, 14]
