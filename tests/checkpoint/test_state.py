import random
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import foreign
import pytest
import torch
from networks import SMALL

from levit_deploy.checkpoint.state import find_weights
from levit_deploy.errors import CheckpointError, UsageError

PATH = Path("some.pth")
A, B = "blocks.0.m.qkv.c.weight", "blocks.0.m.qkv.bn.num_batches_tracked"
ONE = {A: torch.ones(2), B: torch.tensor(3)}
TWO = {A: torch.zeros(2), B: torch.tensor(3)}


def copied(state):
    return {key: value.clone() for key, value in state.items()}


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def find(contents, weights=None):
    """The name of the weights and the tensors."""
    found = find_weights(contents, weights, PATH)
    return found.name, found.weights.state


def same(state, expected):
    return state.keys() == expected.keys() and all(state[k] is expected[k] for k in expected)


def test_a_bare_state_dict_is_the_state():
    assert same(find(ONE)[1], ONE)


def test_the_state_under_model_is_the_state():
    contents = {"model": ONE, "optimizer": {"state": {}}, "epoch": 3}
    assert same(find(contents)[1], ONE)


def test_an_average_alone_is_the_state():
    assert same(find({"model_ema": TWO, "epoch": 3})[1], TWO)


def test_an_average_equal_to_the_weights_leaves_no_choice():
    contents = {"model": ONE, "model_ema": copied(ONE)}
    assert same(find(contents)[1], ONE)


@pytest.mark.parametrize(
    "average",
    [
        TWO,
        {A: ONE[A]},
        {**ONE, "blocks.0.m.c": torch.ones(1)},
        {A: ONE[A], "c": ONE[B]},
        {A: torch.ones(1, 2), B: ONE[B]},
    ],
)
def test_an_average_that_differs_must_be_chosen(average):
    contents = {"model": ONE, "model_ema": average}
    with pytest.raises(CheckpointError, match=r"--weights model.*--weights ema"):
        find(contents)
    assert same(find(contents, "model")[1], ONE)
    assert same(find(contents, "ema")[1], average)


def test_the_average_can_be_chosen_where_it_is_equal():
    average = copied(ONE)
    contents = {"model": ONE, "model_ema": average}
    name, state = find(contents, "ema")
    assert name == "ema"
    assert state.keys() == average.keys()


@pytest.mark.parametrize(
    ("contents", "weights", "held"),
    [
        (ONE, "ema", "model"),
        ({"model": ONE}, "ema", "model"),
        ({"model": ONE, "model_ema": None}, "ema", "model"),
        ({"model": ONE, "model_ema": {}}, "ema", "model"),
        ({"model_ema": ONE, "epoch": 1}, "model", r"ema \(under model_ema\)"),
        (prefixed("student.", ONE) | {"teacher.a": ONE[A]}, "teacher", r"model \(under student\)"),
        ({"a": ONE, "b": TWO}, "c", "a and b"),
    ],
)
def test_asking_for_weights_that_are_not_there_is_a_usage_error(contents, weights, held):
    with pytest.raises(UsageError, match=rf"--weights {weights}.*weights only as {held}\."):
        find(contents, weights)


@pytest.mark.parametrize(
    "contents",
    [
        prefixed("student.net.", ONE) | prefixed("teacher.net.", TWO),
        {"student": {"net": ONE}, "teacher": {"net": TWO}},
    ],
)
def test_the_module_around_a_set_names_it(contents):
    name, state = find(contents, "teacher")
    assert name == "teacher.net"
    assert any(tensor is TWO[A] for tensor in state.values())
    with pytest.raises(UsageError, match="Give one of these names"):
        find(contents, "net")


def test_which_weights_were_taken_is_said():
    assert find({"model_ema": TWO})[0] == "ema"
    assert find({"model": ONE, "model_ema": copied(ONE)})[0] == "model"
    assert find({"model": ONE, "model_ema": TWO}, "ema")[0] == "ema"


def test_an_average_kept_in_another_precision_is_compared_by_value():
    average = {A: ONE[A].half(), B: ONE[B]}
    name, state = find({"model_ema": average, "model": ONE})
    assert name == "model"
    assert same(state, ONE)


def test_weights_that_are_there_may_be_named():
    assert same(find(ONE, "model")[1], ONE)


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
    ],
)
def test_no_state_dict_is_refused_with_what_there_is(contents):
    with pytest.raises(CheckpointError, match=r"some\.pth holds .*no state dict") as caught:
        find(contents)
    for key in contents:
        assert repr(key) in str(caught.value)


def test_tensors_of_another_network_are_refused_with_their_place_and_names():
    resnet = {"conv1.weight": ONE[A], "fc.bias": ONE[A]}
    with pytest.raises(CheckpointError, match=r"2 tensors under 'run\.net', such as conv1\.weight"):
        find({"run": {"net": resnet, "lr": {"a": ONE[A]}}})


def test_the_nearest_family_is_named_by_the_parts_it_shares():
    names = ("encoder.patch_embed.first.c", "encoder.attn_bias", "encoder.qkv.c.weight")
    with pytest.raises(CheckpointError, match="nearest family is official, which has patch_embed"):
        find(dict.fromkeys(names, ONE[A]))


def test_the_contents_are_left_alone():
    contents = {"model": dict(ONE)}
    find(contents)[1].clear()
    assert same(contents["model"], ONE)


def test_what_is_no_tensor_beside_the_tensors_does_not_count():
    assert same(find({**ONE, "epoch": 3, "classes": ["cat", "dog"]})[1], ONE)


# Wrappers and prefixes


@cache
def saved(family, seed):
    return foreign.state_of(family, SMALL, seed)


def around(contents, random_number):
    """The contents deep in dicts and lists that have other things in them, too."""
    for _ in range(random_number.randrange(6)):
        key = random_number.choice([word(random_number), random_number.randrange(9)])
        others = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "x": None}
        contents = {**others, key: contents} if random_number.random() < 0.8 else [contents, 1]
    return contents if isinstance(contents, dict) else {"list": contents}


def word(random_number):
    letters = [random_number.choice("abcdehklmnopqrstuvwxyz_") for _ in range(1, 9)]
    return "".join(letters)


def prefix_of(random_number):
    usual = ["net", "backbone", "student", "model", "module", "_orig_mod", "encoder", "m", "0"]
    parts = [
        random_number.choice([*usual, word(random_number)])
        for _ in range(random_number.randrange(5))
    ]
    return "".join(f"{part}." for part in parts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_any_family_is_found_under_any_keys_behind_any_prefix(family, seed):
    state = saved(family, 0)
    random_number = random.Random(f"{family}{seed}")
    prefix = prefix_of(random_number)
    contents = around(prefixed(prefix, state), random_number)
    found = find_weights(contents, None, PATH)
    assert same(found.weights.state, state)
    assert found.weights.prefix_in_file == prefix
    assert not found.weights.beside


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_two_sets_of_any_family_are_asked_for_by_their_names(family, seed):
    random_number = random.Random(f"{family}{seed}")
    one, two = (saved(family, seed) for seed in (0, 1))
    names = word(random_number), word(random_number)
    if random_number.random() < 0.5:
        contents = prefixed(f"{names[0]}.", one) | prefixed(f"{names[1]}.module.", two)
    else:
        contents = {names[0]: one, names[1]: {"state_dict": two}}
    contents = around(contents, random_number)
    with pytest.raises(CheckpointError, match=f"{names[0]}.* and {names[1]}"):
        find(contents)
    for name, state in zip(names, (one, two), strict=True):
        chosen, tensors = find(contents, name)
        assert chosen == name
        assert same(tensors, state)


@pytest.mark.parametrize(
    "keys",
    [("ema",), ("model_ema", "module"), ("state_dict_ema",), ("model", "ema", "state_dict")],
)
def test_an_average_is_told_by_its_keys(keys):
    contents = ONE
    for key in reversed(keys):
        contents = {key: contents}
    name, state = find(contents)
    assert same(state, ONE)
    assert name == "ema"


@pytest.mark.parametrize(
    "key", [f"module.{A}", f"blocks._orig_mod.0.module.{A[9:]}", f"a._fsdp_wrapped_module.{A}"]
)
def test_the_marks_of_wrappers_come_off_anywhere(key):
    assert A in find({key: ONE[A]})[1]


def test_transformers_own_module_stays():
    key = "levit.encoder.stages.0.layers.0.module.queries_keys_values.linear.weight"
    assert find({f"module.{key}": ONE[A]})[1].keys() == {key}


def test_a_name_that_two_marks_lead_to_is_refused():
    contents = {A: ONE[A], f"module.{A}": TWO[A]}
    with pytest.raises(CheckpointError, match=rf"holds {A} twice, one of them as module\.{A}"):
        find(contents)


def test_an_average_is_compared_under_bare_names():
    average = prefixed("module.", copied(ONE))
    name, state = find({"state_dict": ONE, "state_dict_ema": average})
    assert name == "model"
    assert same(state, ONE)


def test_different_weights_of_one_kind_are_named_by_their_keys():
    contents = {"model": ONE, "state_dict": TWO, "best": copied(TWO)}
    with pytest.raises(CheckpointError, match=r"2 sets .*: model and state_dict\. .*--weights"):
        find(contents)
    assert same(find(contents, "state_dict")[1], TWO)
    assert same(find(contents, "best")[1], TWO)


@pytest.mark.parametrize(
    ("contents", "trained"),
    [
        ({"state_dict": TWO, "current_model_state": ONE}, "current_model_state"),
        ({"state_dict": TWO, "ema_state_dict": ONE, "message_hub": {}}, "ema_state_dict"),
    ],
)
def test_trainers_that_save_the_average_in_place_are_known(contents, trained):
    with pytest.raises(CheckpointError, match=rf"model \(under {trained}\) and ema"):
        find(contents)
    assert same(find(contents, "model")[1], ONE)
    assert same(find(contents, "ema")[1], TWO)
    assert same(find(contents, trained)[1], ONE)
    assert same(find(contents, "state_dict")[1], TWO)


def test_a_set_may_stand_behind_a_prefix_beside_one_without():
    contents = ONE | prefixed("teacher.", TWO)
    with pytest.raises(CheckpointError, match=r"they differ: model and teacher\."):
        find(contents)
    assert same(find(contents, "teacher")[1], TWO)
    assert same(find(contents, "model")[1], ONE)


def test_an_adapter_is_no_set_of_weights():
    contents = prefixed("base.model.", {A.replace("weight", "lora_A.weight"): ONE[A]})
    with pytest.raises(CheckpointError, match="look like a LoRA adapter's"):
        find(contents)


def test_an_average_under_ema_state_dict_is_one_elsewhere():
    assert same(find({"state_dict": ONE, "ema_state_dict": TWO}, "ema")[1], TWO)


def test_ema_pytorch_names_both_of_its_networks():
    contents = prefixed("online_model.", ONE) | prefixed("ema_model.", TWO)
    with pytest.raises(CheckpointError, match=r"under online_model.*under ema_model"):
        find(contents)
    for name, state in (("online_model", ONE), ("model", ONE), ("ema_model", TWO), ("ema", TWO)):
        assert same(find(contents, name)[1], state)


def test_masks_and_quantized_copies_are_no_choice():
    for odd in (torch.eye(2).to_sparse(), torch.ones(2, dtype=torch.int8)):
        assert same(find({"mask": {A: odd}, "model": ONE})[1], ONE)


@pytest.mark.parametrize(
    "key",
    ["ema_model", "model_ema_state_dict", "ema_weights", "params_ema", "ema_state", "swa_model"],
)
def test_an_average_goes_by_many_names(key):
    contents = {"model": ONE, key: TWO}
    with pytest.raises(CheckpointError, match="--weights ema"):
        find(contents)
    assert same(find(contents, "ema")[1], TWO)


def test_an_average_of_something_else_is_no_choice():
    name, state = find({"model": ONE, "ema": {"decay": torch.tensor(0.99)}})
    assert name == "model"
    assert same(state, ONE)


# Hostile contents


def test_dicts_that_hold_each_other_come_to_an_end_soon():
    contents = {}
    for key in ("model", "state_dict", "module", "ema", "model_ema", "model_state"):
        contents[key] = contents
    with pytest.raises(CheckpointError, match="no state dict"):
        find(contents)


def test_sets_of_views_of_the_same_numbers_are_not_compared():
    numbers = torch.zeros(1 << 20)
    contents = {}
    for i in range(40):
        views = {f"blocks.{j}.m.qkv.c.weight": numbers[i : i - 50] for j in range(100)}
        contents[f"model{i}"] = views | {A: torch.full((2,), float(i))}
    start = time.process_time()
    with pytest.raises(CheckpointError, match="views of the same few numbers"):
        find(contents)
    assert time.process_time() - start < 5


def test_a_long_key_is_told_in_short():
    with pytest.raises(CheckpointError) as caught:
        find({"x" * 100_000: 3})
    assert len(str(caught.value)) < 1_000


def test_a_deep_nesting_comes_to_an_end():
    contents = {"model": ONE}
    for _ in range(10_000):
        contents = {"model": contents}
    with pytest.raises(CheckpointError, match="no state dict"):
        find(contents)


def test_more_sets_than_anyone_saves_are_refused():
    for contents in (
        {str(i): {A: torch.tensor([float(i)])} for i in range(100)},
        {f"net{i}.{A}": torch.tensor([float(i)]) for i in range(100)},
    ):
        with pytest.raises(CheckpointError, match="more than 64 sets"):
            find(contents)


@pytest.mark.parametrize(
    "names",
    [
        (f"p{i}.{A}" for i in range(30_000)),
        (f"blocks.0.m.foo{i}" for i in range(30_000)),
        (f"{'stages.0.blocks.' * 50}{i}" for i in range(3_000)),
        ("stages." * 100_000, "x._orig_mod" * 100_000, "module." * 100_000),
        ("x." * 100_000 + A,),
    ],
)
def test_many_names_and_long_ones_take_little_time(names):
    contents = {**ONE, **dict.fromkeys(names, ONE[A])}
    begin = time.process_time()
    with suppress(CheckpointError, UsageError):
        find(contents, "x")
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "meta"),
        (torch.ones(1).expand(2**40), "only 1 stored numbers"),
        (torch.ones(1, 1).expand(2**62, 1), "only 1 stored numbers"),
        (torch.ones(2, dtype=torch.int8), "int8"),
    ],
)
def test_what_is_no_array_of_stored_numbers_is_refused(tensor, reason):
    with pytest.raises(CheckpointError, match=f"^{A} .*{reason}"):
        find({"best": {A: tensor}, "last": {A: tensor}})


def test_a_mark_within_the_first_name_leaves_the_prefix_as_it_is():
    state = {
        key.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): tensor
        for key, tensor in sorted(prefixed("_orig_mod.net.", ONE).items())
    }
    weights = find_weights(state, None, PATH).weights
    assert (weights.prefix, weights.prefix_in_file) == ("net.", "_orig_mod.net.")
