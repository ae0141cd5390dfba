import networks
import numpy as np
import pytest
import torch
from networks import SMALL
from torch import nn

from levit_deploy.errors import CheckpointError
from levit_deploy.model import Attention, LeViT
from levit_deploy.passes.fold_layernorm import fold_layernorm

CONFIG = SMALL.replace(norm="layernorm")


def attentions(model):
    return [module for module in model.modules() if isinstance(module, Attention)]


def test_the_affine_part_is_in_the_columns_and_the_bias():
    before, after = networks.trained(CONFIG).double(), fold_layernorm(networks.trained(CONFIG))
    for old, new in zip(attentions(before), attentions(after), strict=True):
        weight, bias = old.qkv.weight.detach().numpy(), old.qkv.bias.detach().numpy()
        gamma, beta = old.norm.weight.detach().numpy(), old.norm.bias.detach().numpy()
        np.testing.assert_allclose(new.qkv.weight.detach(), weight * gamma, rtol=1e-6)
        np.testing.assert_allclose(new.qkv.bias.detach(), weight @ beta + bias, rtol=1e-4)


def test_what_stays_only_normalises():
    for attention in attentions(fold_layernorm(networks.trained(CONFIG.replace(ln_eps=0.1)))):
        assert isinstance(attention.norm, nn.LayerNorm)
        assert not list(attention.norm.parameters())
        assert attention.norm.eps == 0.1


def test_logits_stay_what_they_are():
    model, x = networks.trained(CONFIG).double(), networks.images()
    expected = networks.float64_logits(model, x)
    actual = networks.float64_logits(fold_layernorm(model), x)
    assert np.abs(actual - expected).max() < 1e-13 * np.abs(expected).max()
    assert np.abs(expected).max() > 0.1


def test_without_layernorm_nothing_changes():
    model = networks.trained()
    state = fold_layernorm(model).state_dict()
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in state.items())


def test_a_batchnorm_behind_it_must_be_fused_first():
    model = networks.trained()
    model.blocks[2].m.norm = nn.LayerNorm(12)
    with pytest.raises(CheckpointError, match=r"blocks\.2\.m\.qkv is a Linear_BN"):
        fold_layernorm(model)


@pytest.mark.parametrize("field", ["weight", "bias"])
def test_a_value_that_is_no_number_is_named(field):
    model = LeViT(CONFIG)
    with torch.no_grad():
        getattr(model.blocks[0].m.norm, field)[3] = torch.nan
    with pytest.raises(CheckpointError, match=rf"blocks\.0\.m\.norm\.{field} holds NaN"):
        fold_layernorm(model)
