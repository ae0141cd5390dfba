import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL, configs, float64_logits, images, trained
from torch import nn

from levit_deploy.config import LeViTConfig
from levit_deploy.layout import to_spatial
from levit_deploy.model import Attention, AttentionSubsample, Subsample, ToTokens
from levit_deploy.passes import to_plain, to_plain_float64


def with_stride(config: LeViTConfig, stride: int) -> LeViTConfig:
    return config.replace(
        downsamples=tuple(dataclasses.replace(d, stride=stride) for d in config.downsamples)
    )


def without_mlps(config: LeViTConfig) -> LeViTConfig:
    return config.replace(
        stages=tuple(dataclasses.replace(stage, mlp_dim=0) for stage in config.stages),
        downsamples=tuple(dataclasses.replace(down, mlp_dim=0) for down in config.downsamples),
    )


def assert_same_function(config: LeViTConfig, seed: int = 0) -> None:
    model, x = trained(config, seed), images(config)
    expected = float64_logits(model, x)
    got = float64_logits(to_spatial(to_plain_float64(model)), x)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@settings(deadline=None, max_examples=12)
@given(configs(), st.integers(1, 4), st.integers(0, 99))
def test_it_computes_what_the_training_form_does_on_any_architecture(config, stride, seed):
    assert_same_function(with_stride(config, stride), seed)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SMALL.replace(image_size=(96, 64)),
        SMALL.replace(image_size=(65, 33)),
        with_stride(SMALL, 3),
        with_stride(SMALL, 1),
        without_mlps(SMALL),
        SMALL.replace(stages=SMALL.stages[:1], downsamples=()),
        SMALL.replace(distillation=False, activation="gelu"),
    ],
    ids=["small", "tall", "odd", "stride 3", "stride 1", "no mlp", "one stage", "one head"],
)
def test_it_computes_what_the_training_form_does(config):
    assert_same_function(config)


def test_the_trunk_keeps_the_stems_layout_to_the_pooling():
    model = to_spatial(to_plain(trained()))
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _args, out: shapes.append(tuple(out.shape)))
    with torch.inference_mode():
        model(images())
    first, second, third = (3, 12, 4, 6), (3, 16, 2, 3), (3, 18, 1, 2)
    assert shapes == [first] * 4 + [second] * 4 + [third] * 2 + [(3, 18)]


def test_only_what_works_on_pooled_features_stays_linear():
    model = to_spatial(to_plain(trained()))
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert linears == ["blocks.10.m.2", "head"]
    no_mlp = to_spatial(to_plain(trained(without_mlps(SMALL))))
    linears = [name for name, module in no_mlp.named_modules() if isinstance(module, nn.Linear)]
    assert linears == ["head"]


def test_nothing_of_the_token_layout_is_left():
    kinds = {type(module) for module in to_spatial(to_plain(trained())).modules()}
    assert not kinds & {Attention, AttentionSubsample, Subsample, ToTokens}


def test_the_parameters_keep_their_names_and_numbers():
    plain = to_plain(trained())
    spatial = to_spatial(plain).state_dict()
    assert spatial.keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(spatial[name].reshape(tensor.shape), tensor), name


def test_the_input_is_untouched_and_its_weights_are_held_once():
    plain = to_plain(trained())
    bits = {name: tensor.numpy().tobytes() for name, tensor in plain.state_dict().items()}
    modules = [(name, type(module)) for name, module in plain.named_modules()]
    spatial = to_spatial(plain)
    held = {tensor.data_ptr() for tensor in plain.state_dict().values()}
    assert held == {tensor.data_ptr() for tensor in spatial.state_dict().values()}
    spatial.half().train()
    assert {n: t.numpy().tobytes() for n, t in plain.state_dict().items()} == bits
    assert [(name, type(module)) for name, module in plain.named_modules()] == modules


def test_applied_twice_it_is_as_applied_once():
    once = to_spatial(to_plain(trained()))
    twice = to_spatial(once)
    assert [type(m) for m in twice.modules()] == [type(m) for m in once.modules()]
    assert twice.state_dict().keys() == once.state_dict().keys()
    for name, tensor in once.state_dict().items():
        assert torch.equal(twice.state_dict()[name], tensor), name
    expected = float64_logits(once, images())
    got = float64_logits(twice, images())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
