from pathlib import Path

import pytest
import torch

from levit_deploy.checkpoint.state import find_state
from levit_deploy.errors import CheckpointError, UsageError

PATH = Path("some.pth")
ONE = {"a": torch.ones(2), "b": torch.tensor(3)}
TWO = {"a": torch.zeros(2), "b": torch.tensor(3)}


def copied(state):
    return {key: value.clone() for key, value in state.items()}


def same(state, expected):
    return state.keys() == expected.keys() and all(state[k] is expected[k] for k in expected)


def test_a_bare_state_dict_is_the_state():
    assert same(find_state(ONE, None, PATH)[1], ONE)


def test_the_state_under_model_is_the_state():
    contents = {"model": ONE, "optimizer": {"state": {}}, "epoch": 3}
    assert same(find_state(contents, None, PATH)[1], ONE)


def test_an_average_alone_is_the_state():
    assert same(find_state({"model_ema": TWO, "epoch": 3}, None, PATH)[1], TWO)


def test_an_average_equal_to_the_weights_leaves_no_choice():
    contents = {"model": ONE, "model_ema": copied(ONE)}
    assert same(find_state(contents, None, PATH)[1], ONE)


@pytest.mark.parametrize(
    "average",
    [
        TWO,
        {"a": ONE["a"]},
        {**ONE, "c": torch.ones(1)},
        {"a": ONE["a"], "c": ONE["b"]},
        {"a": torch.ones(1, 2), "b": ONE["b"]},
    ],
)
def test_an_average_that_differs_must_be_chosen(average):
    contents = {"model": ONE, "model_ema": average}
    with pytest.raises(CheckpointError, match=r"--weights model.*--weights ema"):
        find_state(contents, None, PATH)
    assert same(find_state(contents, "model", PATH)[1], ONE)
    assert same(find_state(contents, "ema", PATH)[1], average)


def test_the_average_can_be_chosen_where_it_is_equal():
    average = copied(ONE)
    assert same(find_state({"model": ONE, "model_ema": average}, "ema", PATH)[1], average)


@pytest.mark.parametrize(
    ("contents", "weights", "held"),
    [
        (ONE, "ema", "model"),
        ({"model": ONE}, "ema", "model"),
        ({"model": ONE, "model_ema": None}, "ema", "model"),
        ({"model": ONE, "model_ema": {}}, "ema", "model"),
        ({"model_ema": ONE, "epoch": 1}, "model", "ema"),
    ],
)
def test_asking_for_weights_that_are_not_there_is_a_usage_error(contents, weights, held):
    with pytest.raises(UsageError, match=rf"--weights {weights}.*holds only {held}\."):
        find_state(contents, weights, PATH)


def test_which_weights_were_taken_is_said():
    assert find_state({"model_ema": TWO}, None, PATH)[0] == "ema"
    assert find_state({"model": ONE, "model_ema": copied(ONE)}, None, PATH)[0] == "model"
    assert find_state({"model": ONE, "model_ema": TWO}, "ema", PATH)[0] == "ema"


def test_an_average_kept_in_another_precision_is_compared_by_value():
    average = {"a": ONE["a"].half(), "b": ONE["b"]}
    assert find_state({"model": ONE, "model_ema": average}, None, PATH)[0] == "model"


def test_weights_that_are_there_may_be_named():
    assert same(find_state(ONE, "model", PATH)[1], ONE)


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"epoch": 3, "args": None},
        {"model": None},
        {"model": {}},
        {"model": {"a": 1.0}},
        {"model": {0: torch.ones(1)}},
        {0: torch.ones(1)},
        {"a": torch.ones(1), "epoch": 3},
        {"net": ONE},
    ],
)
def test_no_state_dict_is_refused_with_what_there_is(contents):
    with pytest.raises(CheckpointError, match=r"some\.pth holds .*no state dict") as caught:
        find_state(contents, None, PATH)
    for key in contents:
        assert repr(key) in str(caught.value)


def test_the_contents_are_left_alone():
    contents = {"model": dict(ONE)}
    find_state(contents, None, PATH)[1].clear()
    assert same(contents["model"], ONE)
