from dataclasses import replace

import networks
import pytest
import torch

from levit_deploy.checkpoint.strict import load_strictly
from levit_deploy.errors import CheckpointError

SMALL = networks.SMALL


def state():
    return networks.trained().state_dict()


def loaded(tensors, config=SMALL):
    return load_strictly(config, tensors)


def refused(tensors, match):
    with pytest.raises(CheckpointError, match=match):
        load_strictly(SMALL, tensors)


def test_every_tensor_is_loaded():
    expected = state()
    actual = loaded(expected).state_dict()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "key",
    [
        "patch_embed.0.c.weight",
        "patch_embed.0.bn.running_var",
        "blocks.0.m.qkv.bn.bias",
        "blocks.0.m.attention_biases",
        "blocks.4.q.1.bn.running_mean",
        "head.l.bias",
        "head_dist.l.weight",
    ],
)
def test_a_missing_tensor_is_named(key):
    tensors = state()
    del tensors[key]
    refused(tensors, rf"missing {key}[;.]")


@pytest.mark.parametrize(
    "key", ["blocks.0.m.qkv.c.bias", "blocks.99.m.0.c.weight", "head_dist2.l.weight", "x"]
)
def test_a_surplus_tensor_is_named(key):
    refused({**state(), key: torch.zeros(1)}, rf"surplus {key}[;.]")


def test_a_second_head_too_many_is_refused():
    with pytest.raises(CheckpointError, match=r"surplus head_dist\."):
        load_strictly(SMALL.replace(distillation=False), state())


@pytest.mark.parametrize(
    ("key", "shape", "shown"),
    [
        ("blocks.0.m.qkv.bn.weight", (53,), "53 instead of 54"),
        ("patch_embed.0.c.weight", (2, 3, 1, 1), "2x3x1x1 instead of 2x3x3x3"),
        ("head.l.bias", (), "a scalar instead of 7"),
        ("head.l.bias", (1,), "1 instead of 7"),  # would broadcast
    ],
)
def test_a_tensor_of_another_shape_is_named_with_both_shapes(key, shape, shown):
    refused({**state(), key: torch.zeros(shape)}, rf"wrong shapes: {key} \({shown}\)")


def test_all_kinds_of_trouble_are_told_at_once():
    tensors = {**state(), "x": torch.zeros(1), "head.l.bias": torch.zeros(1)}
    del tensors["head.l.weight"]
    refused(tensors, r"missing head\.l\.weight; surplus x; wrong shapes: head\.l\.bias")


def test_a_long_list_of_names_is_cut_short():
    tensors = {**state(), **{f"x{i}": torch.zeros(1) for i in range(9)}}
    refused(tensors, r"surplus x0, x1, x2, x3 and 5 more")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["blocks.0.m.proj.1.c.weight", "head.bn.running_var"])
def test_a_number_that_is_not_finite_is_refused(key, value):
    tensors = state()
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[-1] = value
    refused(tensors, rf"{key} holds NaN or infinity")


@pytest.mark.parametrize(
    "change", [lambda idxs: idxs.flip(1), lambda idxs: idxs + 1, lambda idxs: idxs * 0]
)
@pytest.mark.parametrize("key", ["blocks.0.m.attention_bias_idxs", "blocks.4.attention_bias_idxs"])
def test_other_offset_indices_are_refused(key, change):
    tensors = state()
    tensors[key] = change(tensors[key])
    refused(tensors, rf"{key} does not hold the offsets")


def test_what_follows_from_the_architecture_may_be_missing():
    tensors = {
        key: value
        for key, value in state().items()
        if not key.endswith((".attention_bias_idxs", ".num_batches_tracked"))
    }
    x = networks.images()
    with torch.no_grad():
        assert torch.equal(loaded(tensors)(x), networks.trained()(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_loaded_as_float32(dtype):
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    model = loaded(tensors)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == torch.float32
            assert torch.equal(value, tensors[key].float())


def test_a_number_too_large_for_float32_is_refused():
    tensors = state()
    tensors["head.l.bias"] = tensors["head.l.bias"].double() * 1e300
    refused(tensors, r"head\.l\.bias")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: (t * 100).to(torch.int8), id="int8"),
        pytest.param(lambda t: t > 0, id="bool"),
        pytest.param(lambda t: torch.complex(t, t), id="complex"),
        pytest.param(lambda t: t.to(torch.float8_e4m3fn), id="float8"),
    ],
)
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_a_weight_that_is_no_plain_float_is_refused(change):
    tensors = state()
    tensors["head.l.weight"] = change(tensors["head.l.weight"])
    refused(tensors, r"head\.l\.weight")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
def test_indices_cast_with_the_rest_of_a_file_are_computed_again(dtype):
    config = SMALL.replace(image_size=(272, 272))  # 289 tokens: bfloat16 rounds above 256
    tensors = networks.trained(config).state_dict()
    key = "blocks.0.m.attention_bias_idxs"
    expected = tensors[key]
    tensors[key] = expected.to(dtype)
    assert torch.equal(tensors[key].long(), expected) == (dtype != torch.bfloat16)
    assert torch.equal(loaded(tensors, config).state_dict()[key], expected)


def test_sizes_without_memory_take_none():
    vast = SMALL.replace(num_classes=10**9)
    with pytest.raises(CheckpointError, match="wrong shapes: head"):
        load_strictly(vast, state())
    beyond = SMALL.replace(
        num_classes=10**18, stages=(*SMALL.stages[:2], replace(SMALL.stages[2], dim=10**9))
    )
    with pytest.raises(CheckpointError, match="fit no memory"):
        load_strictly(beyond, state())


def test_the_given_tensors_are_left_alone():
    tensors = {k: v for k, v in state().items() if not k.endswith("idxs")}
    keys = list(tensors)
    loaded(tensors)
    assert list(tensors) == keys
