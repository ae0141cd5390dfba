from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from float_graphs import CONFIG
from prepared import transform_of

from levit_deploy.pictures.preprocessing import IMAGENET
from levit_deploy.pictures.split import Judging
from levit_deploy.verification.accuracy import accuracy

LABELS = np.arange(1000) % 7


def judging(labels):
    return Judging(paths=(Path("x.png"),) * 1000, labels=labels, transform=transform_of(CONFIG))


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
    assert "cannot tell a good int8 network from one" in found.failures[0]


def test_a_wrong_float32_network_is_named_with_how_pictures_were_read():
    classes = {"cat": 1, "ant": 0, **{f"x{i}": i for i in range(2, 7)}}
    pictures = replace(judging(LABELS), classes=classes)
    wrong = with_others(LABELS, *range(900))
    (words,) = accuracy(wrong, wrong, pictures, None).failures
    assert "float32 is right on 10.00 %, and one answer to all would be on 14.30 %" in words
    assert f'prepared as "{IMAGENET}"' in words
    assert "the classes 0 ant, 1 cat, 2 x2" in words
    assert "--preprocessing and --labels" in words
