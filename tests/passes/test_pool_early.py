import dataclasses

import numpy as np
import pytest
import torch
from networks import SMALL, float64_logits, images, trained
from torch import nn

from levit_deploy.config import LeViTConfig
from levit_deploy.model import LeViT, MeanPool, Residual
from levit_deploy.passes.fuse_batchnorm import fuse_batchnorm
from levit_deploy.passes.pool_early import PooledResidual, pool_early


def without_final_mlp() -> LeViTConfig:
    *stages, last = SMALL.stages
    return SMALL.replace(stages=(*stages, dataclasses.replace(last, mlp_dim=0)))


def plain(config: LeViTConfig = SMALL) -> LeViT:
    return fuse_batchnorm(trained(config).double())


@pytest.mark.parametrize("config", [SMALL, without_final_mlp()])
def test_the_function_is_the_same_in_float64(config):
    expected = float64_logits(plain(config), images())
    got = float64_logits(pool_early(plain(config)), images())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_the_last_block_is_pooled_as_by_hand():
    block, pool = plain().blocks[-1], MeanPool(2)
    x = torch.randn(3, 2, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    up, down = block.m[0], block.m[2]
    weights = [t.detach().numpy() for t in (up.weight, up.bias, down.weight, down.bias)]
    hidden = x.numpy() @ weights[0].T + weights[1]
    hidden = hidden * np.clip(hidden + 3, 0, 6) / 6  # hardswish
    expected = (x.numpy() + hidden @ weights[2].T + weights[3]).mean(1)
    with torch.inference_mode():
        got = PooledResidual(block.m, pool)(x)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-13)


def test_the_last_linear_layer_sees_one_row_an_image():
    shapes = []
    for model in (plain(), pool_early(plain())):
        last = model.blocks[-1].m[2]
        last.register_forward_hook(lambda _module, args, _out: shapes.append(tuple(args[0].shape)))
        with torch.inference_mode():
            model(images().double())
    assert shapes == [(3, 2, 30), (3, 30)]


def test_the_layers_keep_their_names():
    model = plain()
    assert list(pool_early(model).state_dict()) == list(model.state_dict())
    assert isinstance(pool_early(model).pool, nn.Identity)


def test_without_a_final_mlp_the_pooling_stays_where_it_is():
    pooled = pool_early(plain(without_final_mlp()))
    assert isinstance(pooled.pool, MeanPool)
    assert isinstance(pooled.blocks[-1], Residual)


def test_a_final_mlp_that_still_has_its_batchnorm_is_left_alone():
    pooled = pool_early(trained())
    assert isinstance(pooled.pool, MeanPool)
    assert not any(isinstance(module, PooledResidual) for module in pooled.modules())
