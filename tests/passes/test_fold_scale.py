import numpy as np
import pytest
import torch
from networks import float64_logits, images, trained
from torch import nn

from levit_deploy.errors import CheckpointError
from levit_deploy.model import Linear_BN, Scale
from levit_deploy.passes.fold_scale import fold_scale
from levit_deploy.passes.fuse_batchnorm import fuse_batchnorm


def rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def parameters(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


@pytest.mark.parametrize(
    ("block", "heads", "key_dim", "value_dim"), [(0, 3, 4, 10), (6, 2, 8, 6), (9, 4, 4, 8)]
)
def test_only_the_q_rows_of_each_head_are_scaled(block, heads, key_dim, value_dim):
    model = fuse_batchnorm(trained())
    before = parameters(model.blocks[block].m.qkv)
    after = parameters(fold_scale(model).blocks[block].m.qkv)
    for old, new in zip(before, after, strict=True):
        expected = old.reshape(heads, 2 * key_dim + value_dim, -1).astype(np.float64)
        expected[:, :key_dim] *= key_dim**-0.5
        np.testing.assert_array_equal(new, rounded(expected).reshape(old.shape))


@pytest.mark.parametrize(("block", "key_dim"), [(4, 4), (8, 8)])
def test_every_row_of_a_subsampling_query_is_scaled_and_no_key_or_value(block, key_dim):
    model = fuse_batchnorm(trained())
    folded = fold_scale(model)
    before = parameters(model.blocks[block].q[1])
    after = parameters(folded.blocks[block].q[1])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, rounded(old.astype(np.float64) * key_dim**-0.5))
    assert torch.equal(folded.blocks[block].kv.weight, model.blocks[block].kv.weight)
    assert torch.equal(folded.blocks[block].kv.bias, model.blocks[block].kv.bias)


def test_the_function_is_the_same_in_float64():
    model = fuse_batchnorm(trained().double())
    expected = float64_logits(model, images())
    got = float64_logits(fold_scale(model), images())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_the_factor_is_the_modules_own():
    model = fuse_batchnorm(trained().double())
    model.blocks[0].m.scale = Scale(3.0)
    expected = float64_logits(model, images())
    got = float64_logits(fold_scale(model), images())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_no_scale_is_left():
    folded = fold_scale(fuse_batchnorm(trained()))
    assert not any(isinstance(module, Scale) for module in folded.modules())


def test_a_model_with_its_batchnorms_is_refused_by_the_layers_name():
    with pytest.raises(
        CheckpointError, match=r"^blocks\.0\.m\.qkv is a Linear_BN\. Expected a plain"
    ):
        fold_scale(trained())


def test_one_query_layer_left_unfused_is_refused_by_its_name():
    model = fuse_batchnorm(trained())
    model.blocks[4].q[1] = Linear_BN(12, 20, eps=1e-5)
    with pytest.raises(CheckpointError, match=r"^blocks\.4\.q is a Linear_BN\. Expected a plain"):
        fold_scale(model)
