import numpy as np
import pytest
import torch
from networks import SMALL, float64_logits, images, trained
from torch import nn

from levit_deploy.errors import CheckpointError
from levit_deploy.model import BN_Linear, Conv2d_BN, LeViT, Linear_BN
from levit_deploy.passes.fuse_batchnorm import fuse_batchnorm

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def scale_and_shift(bn: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    scale = numbers(bn.weight) / np.sqrt(numbers(bn.running_var) + bn.eps)
    return scale, numbers(bn.bias) - numbers(bn.running_mean) * scale


def assert_bits(parameter: torch.Tensor, expected: np.ndarray) -> None:
    assert parameter.dtype == torch.float32
    np.testing.assert_array_equal(parameter.detach().numpy(), expected.astype(np.float32))


def test_the_function_is_the_same_in_float64():
    x = images()
    expected = float64_logits(trained(), x)
    fused = float64_logits(fuse_batchnorm(trained().double()), x)
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_no_batchnorm_is_left():
    fused = fuse_batchnorm(trained())
    kinds = {type(module) for module in fused.modules()}
    assert not kinds & {*NORMS, Conv2d_BN, Linear_BN, BN_Linear}
    linears = [module for module in fused.modules() if isinstance(module, nn.Linear)]
    convolutions = [module for module in fused.modules() if isinstance(module, nn.Conv2d)]
    # 4 residual attentions (2 each), 2 subsamplings (3 each), 5 MLPs (2 each), 2 heads; 4 in stem
    assert (len(linears), len(convolutions)) == (26, 4)
    assert all(layer.bias is not None for layer in (*linears, *convolutions))


def test_a_convolution_is_the_float64_result_rounded_once():
    model = trained()
    leaf = model.patch_embed[2]
    scale, shift = scale_and_shift(leaf.bn)
    fused = fuse_batchnorm(model).patch_embed[2]
    assert_bits(fused.weight, numbers(leaf.c.weight) * scale[:, None, None, None])
    assert_bits(fused.bias, shift)
    assert (fused.stride, fused.padding, fused.kernel_size) == ((2, 2), (1, 1), (3, 3))


def test_a_grouped_convolution_keeps_its_groups_and_its_bias():
    model = trained()
    leaf = model.patch_embed[4]
    leaf.c = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    scale, shift = scale_and_shift(leaf.bn)
    fused = fuse_batchnorm(model)
    layer = fused.patch_embed[4]
    assert layer.groups == 2
    assert_bits(layer.weight, numbers(leaf.c.weight) * scale[:, None, None, None])
    assert_bits(layer.bias, numbers(leaf.c.bias) * scale + shift)

    expected = float64_logits(model, images())
    got = float64_logits(fuse_batchnorm(model.double()), images())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_before_its_batchnorm_is_scaled_by_rows(bias):
    model = trained()
    leaf = model.blocks[1].m[0]
    leaf.c = nn.Linear(12, 20, bias=bias)
    scale, shift = scale_and_shift(leaf.bn)
    own = numbers(leaf.c.bias) if bias else 0.0
    fused = fuse_batchnorm(model).blocks[1].m[0]
    assert_bits(fused.weight, numbers(leaf.c.weight) * scale[:, None])
    assert_bits(fused.bias, own * scale + shift)


@pytest.mark.parametrize("name", ["head", "head_dist"])
def test_a_linear_layer_behind_its_batchnorm_is_scaled_by_columns(name):
    model = trained()
    leaf = getattr(model, name)
    scale, shift = scale_and_shift(leaf.bn)
    weight = numbers(leaf.l.weight)
    fused = getattr(fuse_batchnorm(model), name)
    assert_bits(fused.weight, weight * scale[None, :])
    assert_bits(fused.bias, (weight * shift[None, :]).sum(1) + numbers(leaf.l.bias))


def test_another_epsilon_is_used():
    model = trained(SMALL.replace(bn_eps=0.25))
    model.blocks[1].m[0].bn.eps = 2.0
    for block, eps in ((1, 2.0), (3, 0.25)):
        leaf = model.blocks[block].m[0]
        scale = numbers(leaf.bn.weight) / np.sqrt(numbers(leaf.bn.running_var) + eps)
        fused = fuse_batchnorm(model).blocks[block].m[0]
        assert_bits(fused.weight, numbers(leaf.c.weight) * scale[:, None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_the_inputs(dtype):
    fused = fuse_batchnorm(trained().to(dtype))
    assert {parameter.dtype for parameter in fused.parameters()} == {dtype}


@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("leaf", "name"),
    [
        (lambda model: model.patch_embed[2], "patch_embed.2.bn"),
        (lambda model: model.blocks[0].m.qkv, "blocks.0.m.qkv.bn"),
        (lambda model: model.blocks[4].q[1], "blocks.4.q.1.bn"),
        (lambda model: model.head_dist, "head_dist.bn"),
    ],
)
def test_an_impossible_variance_is_refused_by_name(leaf, name, value):
    model = trained()
    leaf(model).bn.running_var[1] = value
    with pytest.raises(CheckpointError, match=rf"^{name}\.running_var holds "):
        fuse_batchnorm(model)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("field", ["weight", "bias", "running_mean"])
def test_a_value_that_is_no_number_is_refused_by_name(field, value):
    model = trained()
    with torch.no_grad():
        getattr(model.blocks[3].m[2].bn, field)[-1] = value
    with pytest.raises(CheckpointError, match=rf"^blocks\.3\.m\.2\.bn\.{field} holds "):
        fuse_batchnorm(model)


def test_a_batchnorm_without_running_statistics_is_refused_by_name():
    model = trained()
    model.blocks[4].kv.bn = nn.BatchNorm1d(80, track_running_stats=False).eval()
    with pytest.raises(CheckpointError, match=r"^blocks\.4\.kv\.bn has no running statistics"):
        fuse_batchnorm(model)


def test_a_variance_of_zero_is_no_error_as_epsilon_keeps_it_finite():
    model = LeViT(SMALL).eval()
    model.blocks[1].m[0].bn.running_var[0] = 0.0
    fused = fuse_batchnorm(model).blocks[1].m[0]
    expected = numbers(model.blocks[1].m[0].c.weight)[0] / np.sqrt(1e-5)
    assert_bits(fused.weight[0], expected)
