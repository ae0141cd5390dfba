from hypothesis import given
from hypothesis import strategies as st

from levit_deploy.report.page.placing import CHARACTER, LINE, Label, place_label, rows_for

SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda span: (span[0], sum(span)))
)


def overlap(a, b):
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return across > 0 and down > 0


@given(SPANS)
def test_spans_take_as_few_rows_as_they_can_and_do_not_overlap(spans):
    rows = rows_for(spans)
    covered = [
        [row for (start, end), row in zip(spans, rows, strict=True) if start <= at < end]
        for at in range(80)
    ]
    for there in covered:
        assert len(there) == len(set(there))
    assert len(set(rows)) == max(map(len, covered))
    assert not rows or set(rows) == set(range(max(rows) + 1))


@given(st.lists(st.tuples(st.integers(60, 540), st.integers(60, 240)), max_size=12))
def test_labels_are_beside_marks_and_overlap_nothing(places):
    marks = [(x - 8, y - 8, x + 8, y + 8) for x, y in places]
    taken = list(marks)
    for number, mark in enumerate(marks):
        label = place_label([f"{number}, a form", str(number)], mark, (0, 0, 600, 300), taken)
        left, top, right, bottom = label.box
        assert 0 <= left < right <= 600
        assert 0 <= top < bottom <= 300
        assert not any(overlap(label.box, box) for box in taken)
        taken.append(label.box)


def test_a_long_label_gives_way_to_a_short_one_before_it_leaves_its_mark():
    mark, wide = (90, 40, 110, 60), (0, 0, 1000, 300)
    walls = [(0, 0, 1000, 35), (0, 65, 1000, 80), (0, 35, 80, 65)]
    texts = ["a name that is long", "short"]
    assert place_label(texts, mark, wide, walls).text == texts[0]
    wall = (250, 35, 1000, 65)
    assert place_label(texts, mark, wide, [*walls, wall]).text == texts[1]


def test_the_room_of_a_label_is_on_the_side_of_its_anchor():
    width = 2 * CHARACTER + 4
    for anchor, left in (("start", 100), ("middle", 100 - width / 2), ("end", 100 - width)):
        assert Label("ab", 100, 50, anchor).box == (
            left,
            50 - LINE / 2,
            left + width,
            50 + LINE / 2,
        )
