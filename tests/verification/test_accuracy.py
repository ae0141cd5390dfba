from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from float_graphs import CONFIG, save_pictures
from prepared import transform_of

from levit_deploy.errors import VerificationError
from levit_deploy.pictures.preprocessing import IMAGENET
from levit_deploy.pictures.split import Judging, judging_pictures
from levit_deploy.verification.accuracy import accuracy, require_enough, top1
from levit_deploy.verification.confidence import limit_of_loss, limit_of_share

LABELS = np.arange(1000) % 7


def judging(labels, n=1000):
    return Judging(paths=(Path("x.png"),) * n, labels=labels, transform=transform_of(CONFIG))


def with_others(answers, *places):
    result = answers.copy()
    result[list(places)] = (result[list(places)] + 1) % 7
    return result


def test_with_labels_what_counts_is_top1():
    before = with_others(LABELS, *range(100))  # 90 % right
    after = with_others(before, *range(200, 203), 0)  # three more wrong, and another wrong answer
    found = accuracy(before, after, judging(LABELS), None)
    assert (found.float_top1, found.int8_top1) == (90.0, pytest.approx(89.7))
    assert found.agreement == pytest.approx(99.6)
    assert found.drop == 0.3
    assert found.pictures == 1000
    assert (found.changed_for_better, found.changed_for_worse) == (0, 3)


def test_a_file_answers_pictures_once(tmp_path):
    folder = save_pictures(tmp_path, CONFIG.num_classes, each=2)
    pictures = judging_pictures(folder, transform_of(CONFIG), CONFIG.num_classes)
    asked = []

    def run(images):
        asked.append(len(images))
        return images.reshape(len(images), -1)[:, :7] + len(asked)

    first = top1(run, pictures, "a hash")
    batches = len(asked)
    np.testing.assert_array_equal(top1(run, pictures, "a hash"), first)
    assert len(asked) == batches
    top1(run, pictures, "another")
    top1(run, pictures)
    top1(run, pictures)
    assert len(asked) == 4 * batches


@pytest.mark.parametrize(
    ("wrong", "max_drop", "fails"), [(3, None, False), (4, None, True), (4, 0.4, False)]
)
def test_three_in_a_thousand_may_be_lost(wrong, max_drop, fails):
    found = accuracy(LABELS, with_others(LABELS, *range(wrong)), judging(LABELS), max_drop)
    assert bool(found.failures) == fails
    if fails:
        assert found.failures[0] == "top-1 falls from 100.00 to 99.60 %, by more than 0.3 points"


@pytest.mark.parametrize(
    ("wrong", "max_drop", "fails"), [(5, None, False), (6, None, True), (6, 1, False)]
)
def test_without_labels_it_is_agreement(wrong, max_drop, fails):
    found = accuracy(LABELS, with_others(LABELS, *range(wrong)), judging(None), max_drop)
    assert found.float_top1 is None
    assert bool(found.failures) == fails
    if fails:
        assert found.failures[0] == "the same top-1 on 99.40 %, below the 99.5 % asked"


def test_a_gain_is_no_drop():
    before = with_others(LABELS, 1, 2, 3)
    found = accuracy(before, LABELS, judging(LABELS), 0)
    assert found.drop == pytest.approx(-0.3)
    assert not found.failures


@pytest.mark.parametrize("labels", [None, np.where(np.arange(1000) < 997, 0, 1)])
def test_pictures_that_one_answer_would_do_for_judge_nothing(labels):
    answers = np.where(np.arange(1000) < 998, 0, 1)
    found = accuracy(answers, np.zeros(1000, int), judging(labels), None)
    assert found.drop <= found.allowed
    assert "one answer to all" in found.failures[0]
    assert "cannot tell a good rounded network from one" in found.failures[0]


def test_a_wrong_float32_network_is_named_with_how_pictures_were_read():
    classes = {"cat": 1, "ant": 0, **{f"x{i}": i for i in range(2, 7)}}
    pictures = replace(judging(LABELS), classes=classes)
    wrong = with_others(LABELS, *range(900))
    (words,) = accuracy(wrong, wrong, pictures, None).failures
    assert "float32 is right on 10.00 %, and one answer to all would be on 14.30 %" in words
    assert f'prepared as "{IMAGENET}"' in words
    assert "the classes 0 ant, 1 cat, 2 x2" in words
    assert "--preprocessing and --labels" in words


def test_answers_that_change_both_ways_are_no_proof():
    n, labels = 416, LABELS[:416]
    before = with_others(labels, *range(6))
    after = with_others(labels, *range(10, 16))
    found = accuracy(before, after, judging(labels, n), None)
    assert (found.changed_for_better, found.changed_for_worse) == (6, 6)
    assert found.drop == 0
    assert found.largest_drop == 100 * limit_of_loss(6, 6, n)
    assert (found.failures, found.shown) == ((), False)
    words = (
        "lost 0.00 points; at most 1.6 with 95 % confidence; about 9,600 pictures would show 0.3"
    )
    assert found.summary == words
    assert found.sentence == f"{words}; the same top-1 on 97.12 % of 416 pictures"
    asked = accuracy(before, after, judging(labels, n), None, confident=True)
    assert asked.failures == (words,)
    assert asked.too_few_pictures
    assert accuracy(before, after, judging(labels, n), 1.6, confident=True).failures == ()


def test_without_labels_every_change_may_be_for_the_worse():
    found = accuracy(LABELS, with_others(LABELS, 1, 2), judging(None), None, confident=True)
    assert (found.changed_for_better, found.changed_for_worse) == (None, None)
    assert found.largest_drop == 100 * limit_of_share(2, 1000)
    assert found.failures == (
        "lost 0.20 points; at most 0.63 with 95 % confidence; about 1,600 pictures would show 0.5",
    )


def test_a_drop_that_is_too_large_is_told_first():
    after = with_others(LABELS, *range(9))
    found = accuracy(LABELS, after, judging(LABELS), None, confident=True)
    assert found.failures[0].startswith("top-1 falls from")
    assert not found.too_few_pictures
    assert found.summary.endswith("; no number of such pictures would show 0.3")


@pytest.mark.parametrize(("labels", "n", "enough"), [(True, 1000, 1006), (False, 597, 598)])
def test_with_confidence_too_few_pictures_are_refused_at_once(labels, n, enough):
    pictures = [judging(np.arange(n) % 7 if labels else None, n) for n in (n, enough)]
    with pytest.raises(VerificationError, match=f"{n} pictures to judge by are too few for --conf"):
        require_enough(pictures[0], None)
    require_enough(pictures[1], None)
    require_enough(pictures[0], 1)
    with pytest.raises(VerificationError, match="No number could show that it loses at most 0"):
        require_enough(pictures[1], 0)
