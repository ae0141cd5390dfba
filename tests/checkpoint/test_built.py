import networks
import pytest
import torch
from torch import nn
from transformers import LevitConfig, LevitForImageClassification

from levit_deploy.checkpoint.built import with_modules
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.pickles.modules import ModuleFacts
from levit_deploy.errors import CheckpointError
from levit_deploy.model import LeViT

SMALL = networks.SMALL


def modules_of(model):
    return {
        path: ModuleFacts(f"{type(module).__module__}.{type(module).__qualname__}", vars(module))
        for path, module in model.named_modules()
    }


def test_no_modules_state_nothing():
    assert with_modules(Known(), {}) == Known()
    assert with_modules(Known(), modules_of(nn.Linear(2, 3))) == Known(
        activation_source="the network itself"
    )


@pytest.mark.parametrize("activation", ["hardswish", "silu", "gelu", "relu"])
def test_the_classes_of_modules_tell_the_activation(activation):
    known = with_modules(Known(), modules_of(LeViT(SMALL.replace(activation=activation))))
    assert known.activation == activation
    assert known.told == (
        f"activation {activation}, by the network itself",
        "eps 1e-05, by the network itself",
    )


@pytest.mark.parametrize("part", ["stem_activation", "attention_activation"])
def test_a_part_may_have_its_own_activation(part):
    config = SMALL.replace(activation="gelu", **{part: "relu"})
    known = with_modules(Known(), modules_of(nn.ModuleDict({"net": LeViT(config)})))
    assert (known.activation, getattr(known, part)) == ("gelu", "relu")
    alike = with_modules(Known(**{part: "silu"}), modules_of(LeViT(SMALL)))
    assert getattr(alike, part) is None


def test_transformers_modules_tell_theirs():
    config = LevitConfig(hidden_sizes=[16, 16, 16], num_attention_heads=[1, 1, 1], depths=[1, 1, 1])
    known = with_modules(Known(), modules_of(LevitForImageClassification(config)))
    assert (known.activation, known.attention_activation, known.eps) == ("hardswish", None, 1e-5)


def test_an_eps_of_its_own_is_told():
    known = with_modules(Known(), modules_of(LeViT(SMALL.replace(bn_eps=1e-3))))
    assert known.eps == 1e-3
    assert "eps 0.001, by the network itself" in known.told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (nn.GELU(approximate="tanh"), "GELU_tanh"),
        (nn.Mish(), "Mish"),
        (nn.ReLU(), "several values of activation: hardswish, relu"),
    ],
)
def test_activations_that_are_not_supported_are_refused(change, reason):
    model = LeViT(SMALL)
    model.blocks[1].m[1] = change
    if not isinstance(change, nn.ReLU):
        for block in list(model.blocks)[2:]:
            if isinstance(getattr(block, "m", None), nn.Sequential):
                block.m[1] = change
    with pytest.raises(CheckpointError, match=reason):
        with_modules(Known(), modules_of(model))


def test_the_eps_of_a_layernorm_counts():
    model = nn.Sequential(LeViT(SMALL), nn.LayerNorm(3, eps=1e-6))
    with pytest.raises(CheckpointError, match=r"several values of eps: 1e-05, 1e-06"):
        with_modules(Known(), modules_of(model))


def test_two_eps_are_refused():
    model = LeViT(SMALL)
    model.head.bn.eps = 1e-3
    with pytest.raises(CheckpointError, match=r"several values of eps: 0\.001, 1e-05"):
        with_modules(Known(), modules_of(model))


def test_a_softmax_is_no_activation():
    model = nn.Sequential(LeViT(SMALL), nn.Softmax(-1), nn.MultiheadAttention(4, 2))
    assert with_modules(Known(), modules_of(model)).activation == "hardswish"
    assert torch.nn.Softmax.__module__.endswith("activation")
