import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL, configs, float64_logits, golden, images, trained
from torch import nn

import levit_deploy
from levit_deploy.errors import CheckpointError
from levit_deploy.model import AttentionBias, BN_Linear, Conv2d_BN, LeViT, Linear_BN, Scale
from levit_deploy.passes import passes, to_plain, to_plain_float64

STEPS = range(len(passes()))
ALL = SMALL.replace(norm="layernorm")  # has something for every pass


def before(step: int, model: LeViT) -> LeViT:
    for apply in passes()[:step]:
        model = apply(model)
    return model


def contents(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def structure(model: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in model.named_modules()]


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@settings(deadline=None, max_examples=12)
@given(configs(), st.integers(0, 99))
def test_every_pass_is_exact_on_any_architecture(config, seed):
    model, x = trained(config, seed).double(), images(config)
    expected = float64_logits(model, x)
    for apply in passes():
        model = apply(model)
        assert difference(float64_logits(model, x), expected) < 1e-12, apply.__name__


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pass_leaves_its_input_untouched(step, dtype):
    model = before(step, trained(ALL).to(dtype))
    bits, modules = contents(model), structure(model)
    result = passes()[step](model)
    assert contents(model) == bits
    result.half()  # nor does a cast of the result
    result.eval().requires_grad_(False)
    assert contents(model) == bits
    assert structure(model) == modules
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not {id(m) for m in result.modules()} & {id(m) for m in model.modules()}


def test_what_a_pass_does_not_change_is_held_once():
    model = trained()
    kept = {tensor.data_ptr() for tensor in model.state_dict().values()}
    result = passes()[0](model)  # BatchNorms: all but the attention biases and their places
    shared = {n for n, tensor in result.state_dict().items() if tensor.data_ptr() in kept}
    assert shared == {name for name in result.state_dict() if ".attention_bias" in name}


def test_to_plain_leaves_its_input_untouched_and_shares_nothing_with_it():
    model = trained(ALL)
    bits, modules = contents(model), structure(model)
    result = to_plain(model)
    with torch.no_grad():
        for tensor in (*result.parameters(), *result.buffers()):
            tensor.fill_(1)
    assert contents(model) == bits
    assert structure(model) == modules


@pytest.mark.parametrize("step", STEPS)
def test_a_pass_has_something_to_do_once_and_nothing_the_second_time(step):
    model = before(step, trained(ALL))
    once = passes()[step](model)
    twice = passes()[step](once)
    assert (contents(once), structure(once)) != (contents(model), structure(model))
    assert (contents(twice), structure(twice)) == (contents(once), structure(once))


def test_nothing_of_the_training_form_is_left():
    leaves = {Conv2d_BN, Linear_BN, BN_Linear, AttentionBias, Scale}
    leaves |= {nn.BatchNorm1d, nn.BatchNorm2d}
    plain = to_plain(trained())
    assert not leaves & {type(module) for module in plain.modules()}
    assert plain.head_dist is None


def test_what_is_plain_already_stays_as_it_is():
    plain = to_plain(trained())
    again = to_plain(plain)
    assert contents(again) == contents(plain)
    assert structure(again) == structure(plain)


def test_the_logits_are_those_of_the_upstream_code():
    path, x, expected = golden("official")
    plain = to_plain_float64(levit_deploy.load(path).model)
    with torch.inference_mode():
        got = plain(torch.from_numpy(x).double()).numpy()
    assert difference(got, expected) < 1e-10


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def scale_and_shift(bn: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    scale = numbers(bn.weight) / np.sqrt(numbers(bn.running_var) + bn.eps)
    return scale, numbers(bn.bias) - numbers(bn.running_mean) * scale


def test_two_folds_into_one_layer_are_rounded_once():
    model = trained()
    leaf = model.blocks[6].m.qkv  # two heads, keys of width 8: a scale that is no power of two
    scale, shift = scale_and_shift(leaf.bn)
    weight = (numbers(leaf.c.weight) * scale[:, None]).reshape(2, 22, -1)
    bias = shift.reshape(2, 22)
    weight[:, :8] *= 8**-0.5
    bias[:, :8] *= 8**-0.5
    plain = to_plain(model).blocks[6].m.qkv
    np.testing.assert_array_equal(
        plain.weight.detach().numpy(), weight.reshape(44, -1).astype(np.float32)
    )
    np.testing.assert_array_equal(plain.bias.detach().numpy(), bias.ravel().astype(np.float32))


def test_two_heads_made_one_are_rounded_once():
    model = trained()
    weights, biases = [], []
    for head in (model.head, model.head_dist):
        scale, shift = scale_and_shift(head.bn)
        weight = numbers(head.l.weight)
        weights.append(weight * scale)
        biases.append(weight @ shift + numbers(head.l.bias))
    head = to_plain(model).head
    expected = ((weights[0] + weights[1]) / 2).astype(np.float32)
    np.testing.assert_array_equal(head.weight.detach().numpy(), expected)
    expected = ((biases[0] + biases[1]) / 2).astype(np.float32)
    np.testing.assert_array_equal(head.bias.detach().numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_result_is_float32_in_evaluation_mode_whatever_the_input(dtype):
    model = trained().to(dtype).train()
    plain = to_plain(model)
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    assert not any(module.training for module in plain.modules())
    assert model.training
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_every_number_is_moved_before_it_is_rounded_and_none_of_the_input():
    model = trained(SMALL.replace(norm="none"))  # whose tensors the plain network shares
    before, plain, moved = contents(model), to_plain(model), to_plain(model, moved=0.25)
    assert contents(model) == before
    for name, tensor in plain.state_dict().items():
        shifted = tensor.double() + tensor.double().abs().max() / 4
        expected = shifted if tensor.is_floating_point() else tensor.double()
        torch.testing.assert_close(
            moved.state_dict()[name].double(), expected, rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("head", ["mean", "class", "distill"])
def test_each_head_is_that_of_the_training_form(head):
    model, x = trained().double(), images().double()
    with torch.inference_mode():
        features = model.forward_features(x)
        classes, distilled = model.head(features), model.head_dist(features)
        expected = {"mean": (classes + distilled) / 2, "class": classes, "distill": distilled}
        got = to_plain_float64(model, head)(x)
    assert difference(got.numpy(), expected[head].numpy()) < 1e-12


def test_a_weight_too_large_for_float32_is_refused_by_name():
    model = trained()
    with torch.no_grad():
        model.blocks[1].m[0].bn.weight[2] = 3e38
        model.blocks[1].m[0].bn.running_var[2] = 1e-6
    with pytest.raises(
        CheckpointError, match=r"^blocks\.1\.m\.0\.\w+ holds .* in float32 after fusing"
    ):
        to_plain(model)
    assert to_plain_float64(model).blocks[1].m[0].bias.isfinite().all()


def test_a_model_of_one_head_keeps_it():
    config = SMALL.replace(distillation=False)
    expected = float64_logits(trained(config), images())
    assert difference(float64_logits(to_plain_float64(trained(config)), images()), expected) < 1e-12
