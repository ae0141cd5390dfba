import itertools

import networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.config import VARIANTS
from levit_deploy.model import LeViT, offset_indices

SMALL = networks.SMALL


def relative_error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


def reloaded(state, config=SMALL):
    model = LeViT(config).eval()
    model.load_state_dict(state)
    return model


# Published sizes (arXiv 2104.01136, table 1), in millions


@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [
        ("LeViT-128S", 7.8, 1),
        ("LeViT-128", 9.2, 1),
        ("LeViT-192", 11, 0),
        ("LeViT-256", 19, 0),
        ("LeViT-384", 39, 0),
    ],
)
def test_published_variant_has_the_published_number_of_parameters(name, millions, digits):
    with torch.device("meta"):
        model = LeViT(VARIANTS[name])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, digits) == millions


# Goldens


@pytest.mark.parametrize("name", ["official", "official-training-run"])
def test_logits_are_the_official_ones(name):
    path, inputs, logits = networks.golden(name)
    model = read_checkpoint(path).model
    actual = networks.float64_logits(model, torch.from_numpy(inputs))
    assert relative_error(actual, logits) < 1e-10


@pytest.mark.parametrize("name", ["official", "official-training-run"])
def test_state_dict_has_the_official_names_and_shapes(name):
    path, _, _ = networks.golden(name)
    official = torch.load(path, weights_only=False)["model"]
    ours = LeViT(read_checkpoint(path).config).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in official.items()
    }


# Attention against the formula, one query at a time


def linear_bn(layer, x):
    bn = layer.bn
    weight, gamma, beta, mean, var = (
        t.detach().numpy()
        for t in (layer.c.weight, bn.weight, bn.bias, bn.running_mean, bn.running_var)
    )
    return (x @ weight.T - mean) / np.sqrt(var + bn.eps) * gamma + beta


def hardswish(x):
    return x * np.clip(x + 3, 0, 6) / 6


def attended(query, keys, values, biases, key_dim):
    scores = np.array([query @ key / np.sqrt(key_dim) for key in keys]) + biases
    weights = np.exp(scores - scores.max())
    return (weights / weights.sum()) @ values


def attention_by_hand(module, queries, per_head):
    """One image's output tokens.

    ``queries`` are the (row, column) each query stands on; ``per_head`` gives a head's q, k and v.
    """
    height, width = module.grid
    points = list(itertools.product(range(height), range(width)))
    table = module.attention_bias.biases.detach().numpy()
    rows = []
    for i, (y, z) in enumerate(queries):
        row = []
        for head in range(module.num_heads):
            q, k, v = per_head(head)
            bias = np.array([table[head, abs(y - a) * width + abs(z - b)] for a, b in points])
            row.append(attended(q[i], k, v, bias, module.key_dim))
        rows.append(np.concatenate(row))
    return linear_bn(module.proj[1], hardswish(np.array(rows)))


def test_attention_with_layernorm_is_the_formula():
    config = SMALL.replace(norm="layernorm", ln_eps=1e-3)
    module = networks.trained(config).double().blocks[0].m
    parameters = {name: p.detach().numpy() for name, p in module.named_parameters()}
    x = np.random.default_rng(0).normal(size=(2, 24, 12))
    for tokens, actual in zip(x, module(torch.from_numpy(x)).detach().numpy(), strict=True):
        centred = tokens - tokens.mean(1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3)
        normal = normal * parameters["norm.weight"] + parameters["norm.bias"]
        qkv = normal @ parameters["qkv.weight"].T + parameters["qkv.bias"]
        qkv = qkv.reshape(24, 3, 4 + 4 + 10)
        points = list(itertools.product(range(4), range(6)))
        table = parameters["attention_bias.biases"]
        for i, (y, z) in enumerate(points):
            row = []
            for head in range(3):
                q, k, v = qkv[:, head, :4], qkv[:, head, 4:8], qkv[:, head, 8:]
                bias = np.array([table[head, abs(y - a) * 6 + abs(z - b)] for a, b in points])
                row.append(attended(q[i], k, v, bias, 4))
            # no activation before the projection
            out = parameters["proj.1.weight"] @ np.concatenate(row) + parameters["proj.1.bias"]
            assert np.abs(actual[i] - out).max() < 1e-12


def test_attention_is_the_formula():
    module = networks.trained().double().blocks[0].m
    x = np.random.default_rng(0).normal(size=(2, 24, 12))
    expected = []
    for tokens in x:
        qkv = linear_bn(module.qkv, tokens).reshape(24, 3, 4 + 4 + 10)

        def per_head(head, qkv=qkv):
            return qkv[:, head, :4], qkv[:, head, 4:8], qkv[:, head, 8:]

        queries = list(itertools.product(range(4), range(6)))
        expected.append(attention_by_hand(module, queries, per_head))
    with torch.no_grad():
        actual = module(torch.from_numpy(x)).numpy()
    assert relative_error(actual, np.array(expected)) < 1e-12


def test_subsampling_attention_is_the_formula():
    module = networks.trained().double().blocks[4]
    x = np.random.default_rng(0).normal(size=(2, 24, 12))
    kept = [y * 6 + z for y in (0, 2) for z in (0, 2, 4)]
    expected = []
    for tokens in x:
        kv = linear_bn(module.kv, tokens).reshape(24, 5, 4 + 12)
        q = linear_bn(module.q[1], tokens[kept]).reshape(6, 5, 4)

        def per_head(head, q=q, kv=kv):
            return q[:, head], kv[:, head, :4], kv[:, head, 4:]

        queries = [divmod(point, 6) for point in kept]
        expected.append(attention_by_hand(module, queries, per_head))
    with torch.no_grad():
        actual = module(torch.from_numpy(x)).numpy()
    assert actual.shape == (2, 6, 16)
    assert relative_error(actual, np.array(expected)) < 1e-12


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
def test_offset_indices_are_the_offsets_of_a_double_loop(height, width, stride):
    expected = [
        [abs(y - a) * width + abs(x - b) for a in range(height) for b in range(width)]
        for y in range(0, height, stride)
        for x in range(0, width, stride)
    ]
    assert offset_indices((height, width), stride).tolist() == expected


# The pair of heads


def test_evaluation_gives_the_mean_of_both_heads():
    model, x = networks.trained().double(), networks.images().double()
    with torch.no_grad():
        features = model.forward_features(x)
        expected = (model.head(features) + model.head_dist(features)) / 2
        assert not torch.allclose(model.head(features), model.head_dist(features))
        assert torch.equal(model(x), expected)


def test_training_gives_both_logits_whose_mean_is_what_evaluation_gives():
    model, x = networks.trained(), networks.images()
    with torch.no_grad():
        evaluated = model(x)
        model.train()
        for module in model.modules():  # so that the heads are all that differs
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        logits, distilled = model(x)
    assert logits.shape == distilled.shape == (3, 7)
    torch.testing.assert_close((logits + distilled) / 2, evaluated)


def test_a_single_head_gives_one_tensor_in_both_modes():
    model = networks.trained(SMALL.replace(distillation=False))
    x = networks.images()
    with torch.no_grad():
        assert model(x).shape == (3, 7)
        assert model.train()(x).shape == (3, 7)


# The bias table is never stale


def test_weights_loaded_after_eval_are_the_ones_used():
    x = networks.images()
    model, other = networks.trained(seed=0), networks.trained(seed=1)
    with torch.no_grad():
        before = model(x)
        model.load_state_dict(other.state_dict())
        assert torch.equal(model(x), other(x))
        assert not torch.allclose(model(x), before)


@pytest.mark.parametrize("block", ["blocks.0.m", "blocks.4"])
def test_a_bias_changed_in_place_shows_at_once(block):
    model, x = networks.trained(), networks.images()
    biases = model.get_submodule(block).attention_bias.biases
    with torch.no_grad():
        before = model(x)
        biases += torch.randn(biases.shape, generator=torch.Generator().manual_seed(2))
        assert not torch.equal(model(x), before)
        assert torch.equal(model(x), reloaded(model.state_dict())(x))


def test_training_reaches_every_parameter():
    model, x = networks.trained().train(), networks.images(n=4)
    logits, distilled = model(x)
    (logits.square().sum() + distilled.pow(3).sum()).backward()
    untouched = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_training_reaches_every_entry_of_the_bias_tables():
    model, x = networks.trained().train(), networks.images(n=4)
    model(x)[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.endswith("attention_bias.biases"):
            assert (parameter.grad != 0).all(), name


# State dicts


@settings(deadline=None, max_examples=10)
@given(networks.configs())
def test_state_dict_round_trip_gives_the_same_logits(config):
    model, x = networks.trained(config), networks.images(config)
    with torch.no_grad():
        assert torch.equal(reloaded(model.state_dict(), config)(x), model(x))


def test_state_dict_survives_a_file_and_a_wrapper(tmp_path):
    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.backbone = model
            self.other = nn.Linear(2, 2)

    wrapped = Wrapper(networks.trained())
    torch.save(wrapped.state_dict(), tmp_path / "wrapped.pth")
    state = torch.load(tmp_path / "wrapped.pth", weights_only=True)
    names = {f"backbone.{key}" for key in networks.trained().state_dict()}
    assert state.keys() == names | {"other.weight", "other.bias"}
    assert "backbone.blocks.0.m.attention_biases" in names

    again = Wrapper(networks.trained(seed=1))
    again.load_state_dict(state)
    with torch.no_grad():
        x = networks.images()
        assert torch.equal(again.backbone(x), wrapped.backbone(x))


def test_loading_leaves_the_given_state_dict_alone():
    state = networks.trained().state_dict()
    keys = list(state)
    LeViT(SMALL).load_state_dict(state)
    assert list(state) == keys


# Shapes


@settings(deadline=None, max_examples=10)
@given(networks.configs(), st.integers(1, 3))
def test_any_network_maps_images_to_logits_one_by_one(config, n):
    model, x = networks.trained(config).double(), networks.images(config, n=n).double()
    with torch.no_grad():
        logits = model(x)
        alone = torch.cat([model(image[None]) for image in x])
    assert logits.shape == (n, config.num_classes)
    torch.testing.assert_close(logits, alone, rtol=1e-10, atol=1e-12)


def test_the_sides_of_a_rectangular_image_are_not_exchangeable():
    tall = SMALL.replace(image_size=(96, 64))
    model = networks.trained(tall)
    assert networks.float64_logits(model, networks.images(tall)).shape == (3, 7)
    with pytest.raises(RuntimeError), torch.no_grad():
        model.blocks[4](torch.zeros(1, 25, 12))  # 25 tokens on a grid of 24
