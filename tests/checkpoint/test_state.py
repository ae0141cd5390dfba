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


# Wrappers and prefixes


@pytest.mark.parametrize(
    "keys",
    [
        ("state_dict",),
        ("model_state",),
        ("model_state_dict",),
        ("module",),
        ("model", "state_dict"),
        ("state_dict", "model", "module"),
        ("ema",),
        ("model_ema", "module"),
        ("state_dict_ema",),
        ("ema", "model"),
        ("model", "ema", "state_dict"),
    ],
)
def test_a_state_is_found_under_any_nesting(keys):
    contents = ONE
    for key in reversed(keys):
        contents = {key: contents, "epoch": 3, "optimizer": {"state": {0: TWO}, "model": None}}
    kind, state = find_state(contents, None, PATH)
    assert same(state, ONE)
    assert kind == ("ema" if any("ema" in key for key in keys) else "model")


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "timm_model."],
)
def test_what_wrappers_put_before_names_is_taken_off(prefix):
    contents = {"state_dict": {prefix + key: value for key, value in ONE.items()}}
    assert same(find_state(contents, None, PATH)[1], ONE)


def test_compiled_parts_lose_their_mark_inside_names():
    contents = {"blocks._orig_mod.0.module.w": ONE["a"]}
    assert find_state(contents, None, PATH)[1].keys() == {"blocks.0.module.w"}


def test_only_whole_prefixes_are_taken_off():
    contents = {"models.a": ONE["a"], "modules.b": ONE["b"], "a.module.b": ONE["b"]}
    assert find_state(contents, None, PATH)[1].keys() == contents.keys()


def test_a_name_that_two_prefixes_lead_to_is_refused():
    contents = {"a": ONE["a"], "module.a": TWO["a"]}
    with pytest.raises(CheckpointError, match=r"holds a twice, one of them as module\.a"):
        find_state(contents, None, PATH)


def test_the_count_of_an_averaged_model_is_no_weight():
    averaged = {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in ONE.items()}}
    assert same(find_state({"model_ema": averaged}, None, PATH)[1], ONE)
    state = {**ONE, "n_averaged": torch.ones(2)}
    assert find_state(state, None, PATH)[1].keys() == state.keys()


def test_an_average_is_compared_under_bare_names():
    average = {f"module.{key}": value.clone() for key, value in ONE.items()}
    kind, state = find_state({"state_dict": ONE, "state_dict_ema": average}, None, PATH)
    assert kind == "model"
    assert same(state, ONE)


def test_different_weights_of_one_kind_are_refused():
    with pytest.raises(CheckpointError, match="different weights under 'model' and 'state_dict'"):
        find_state({"model": ONE, "state_dict": TWO}, None, PATH)
    contents = {"model": ONE, "state_dict": copied(ONE)}
    assert same(find_state(contents, None, PATH)[1], ONE)


def test_a_file_that_holds_itself_comes_to_an_end():
    contents = {"epoch": 1}
    contents["model"] = contents
    with pytest.raises(CheckpointError, match="no state dict"):
        find_state(contents, None, PATH)


def test_another_dict_with_the_same_names_is_not_passed_over():
    with pytest.raises(CheckpointError, match="same names under 'best', too, and they differ"):
        find_state({"model": ONE, "best": TWO}, None, PATH)
    both = {"model": ONE, "ema": TWO, "best": copied(TWO)}
    for weights, state in (("model", ONE), ("ema", TWO)):
        assert same(find_state(both, weights, PATH)[1], state)
    odd = {"model": ONE, "mask": {"a": torch.eye(2).to_sparse(), "b": torch.eye(2)}}
    assert same(find_state(odd, None, PATH)[1], ONE)
    assert same(find_state({"model": ONE, "best": copied(ONE)}, None, PATH)[1], ONE)
    assert same(find_state({"model": ONE, "loss": {"weight": torch.ones(3)}}, None, PATH)[1], ONE)


@pytest.mark.parametrize(
    "key",
    ["ema_model", "model_ema_state_dict", "ema_weights", "params_ema", "ema_state", "swa_model"],
)
def test_an_average_goes_by_many_names(key):
    contents = {"model": ONE, key: TWO}
    with pytest.raises(CheckpointError, match="--weights ema"):
        find_state(contents, None, PATH)
    assert same(find_state(contents, "ema", PATH)[1], TWO)


def test_an_average_of_something_else_is_no_choice():
    contents = {"model": ONE, "ema": {"decay": torch.tensor(0.99)}}
    kind, state = find_state(contents, None, PATH)
    assert kind == "model"
    assert same(state, ONE)


def test_dicts_that_hold_each_other_come_to_an_end_soon():
    contents = {}
    for key in ("model", "state_dict", "module", "ema", "model_ema", "model_state"):
        contents[key] = contents
    with pytest.raises(CheckpointError, match="no state dict"):
        find_state(contents, None, PATH)


def test_a_deep_nesting_comes_to_an_end():
    contents = {"model": ONE}
    for _ in range(10_000):
        contents = {"model": contents}
    with pytest.raises(CheckpointError, match="no state dict"):
        find_state(contents, None, PATH)


def test_repeated_marks_of_compilation_are_all_taken_off():
    contents = {"blocks._orig_mod._orig_mod.0.w": ONE["a"]}
    assert find_state(contents, None, PATH)[1].keys() == {"blocks.0.w"}


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "meta"),
        (torch.ones(1).expand(2**40), "only 1 stored numbers"),
        (torch.ones(1, 1).expand(2**62, 1), "only 1 stored numbers"),
    ],
)
def test_what_is_no_array_of_stored_numbers_is_refused(tensor, reason):
    for contents in ({"w": tensor, "v": ONE["a"]}, {"model": ONE, "ema": {**ONE, "w": tensor}}):
        with pytest.raises(CheckpointError, match=f"^w .*{reason}"):
            find_state(contents, "model", PATH)
