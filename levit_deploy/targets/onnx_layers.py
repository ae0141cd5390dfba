"""Emit each plain layer as ONNX: one small function a module type.

The tokens layout keeps its activations two-dimensional between attentions, (B * N, C): a linear
layer is then one Gemm. The spatial layout keeps (B, C, H, W), and the layer is a 1x1 Conv. The
difference is in the modules, which ``layout.py`` chooses; nothing here asks for it.
"""

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from levit_deploy.config import subsampled
from levit_deploy.layout import SpatialLayerNorm, SpatialMeanPool, SpatialToMap
from levit_deploy.model import MeanPool, Residual, Subsample, ToTokens
from levit_deploy.passes.pool_early import PooledResidual
from levit_deploy.passes.stage_maps import StageMaps, ToMap
from levit_deploy.targets.onnx_graph import Emitter, GraphBuilder, Value, dims


def array(tensor: Tensor) -> npt.NDArray[np.float32]:
    """The numbers of a parameter or buffer, without a copy."""
    numbers: npt.NDArray[np.float32] = tensor.detach().numpy()
    return numbers


def gemm(
    g: GraphBuilder,
    x: Value,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    name: str,
) -> Value:
    """Append x (rows, in) times weight (out, in), plus bias (out,): (rows, out)."""
    inputs = g.operands(x, weight, bias, name)
    return g.op("Gemm", inputs, f"{name}.gemm", [dims(x)[0], weight.shape[0]], transB=1)


def _linear(g: GraphBuilder, linear: nn.Linear, x: Value, name: str) -> Value:
    return gemm(g, x, array(linear.weight), array(linear.bias), name)


def convolution(g: GraphBuilder, conv: nn.Conv2d, x: Value, name: str) -> Value:
    """Append a convolution: (B, C, H, W) -> (B, C', H', W')."""
    assert not isinstance(conv.padding, str)
    assert conv.bias is not None
    stride, padding, kernel = conv.stride[0], conv.padding[0], conv.kernel_size[0]
    batch, _, *sides = dims(x)
    return g.op(
        "Conv",
        g.operands(x, array(conv.weight), array(conv.bias), name),
        f"{name}.conv",
        [batch, conv.out_channels, *((int(s) + 2 * padding - kernel) // stride + 1 for s in sides)],
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[padding] * 4,
    )


def _hardswish(g: GraphBuilder, _module: nn.Hardswish, x: Value, name: str) -> Value:
    if g.opset >= 14:
        return g.like("HardSwish", [x], f"{name}.hardswish")
    # the operator's own definition
    gate = g.op("HardSigmoid", [x], f"{name}.hardsigmoid", dims(x), alpha=1 / 6, beta=0.5)
    return g.like("Mul", [x, gate], f"{name}.hardswish")


def _silu(g: GraphBuilder, _module: nn.SiLU, x: Value, name: str) -> Value:
    return g.like("Mul", [x, g.like("Sigmoid", [x], f"{name}.sigmoid")], f"{name}.silu")


def _gelu(g: GraphBuilder, _module: nn.GELU, x: Value, name: str) -> Value:
    if g.opset >= 20:
        return g.like("Gelu", [x], f"{name}.gelu")
    # the operator's own definition, x / 2 * (1 + erf(x / sqrt 2))
    scaled = g.like("Mul", [x, g.scalar(2**-0.5)], f"{name}.scaled")
    erf = g.like("Erf", [scaled], f"{name}.erf")
    gate = g.like("Add", [erf, g.scalar(1.0)], f"{name}.gate")
    half = g.like("Mul", [x, g.scalar(0.5)], f"{name}.half")
    return g.like("Mul", [half, gate], f"{name}.gelu")


def _relu(g: GraphBuilder, _module: nn.ReLU, x: Value, name: str) -> Value:
    return g.like("Relu", [x], f"{name}.relu")


def _layer_norm(g: GraphBuilder, norm: nn.LayerNorm, x: Value, name: str) -> Value:
    assert not norm.elementwise_affine  # fold_layernorm has put that part into the next layer
    if g.opset < 17:
        return _layer_norm_in_parts(g, x, -1, norm.eps, name)
    ones = g.weight(np.ones(norm.normalized_shape, np.float32), f"{name}.ones")  # not optional
    return g.op("LayerNormalization", [x, ones], name, dims(x), axis=-1, epsilon=norm.eps)


def _layer_norm_in_parts(g: GraphBuilder, x: Value, axis: int, eps: float, name: str) -> Value:
    """The operator's own definition, of which opset 16 and earlier have no operator."""
    centred = g.like("Sub", [x, g.mean(x, [axis], f"{name}.mean", keep=True)], f"{name}.centred")
    squares = g.like("Mul", [centred, centred], f"{name}.squares")
    variance = g.mean(squares, [axis], f"{name}.variance", keep=True)
    above_zero = g.like("Add", [variance, g.scalar(eps)], f"{name}.above_zero")
    deviation = g.like("Sqrt", [above_zero], f"{name}.deviation")
    return g.like("Div", [centred, deviation], name)


def _spatial_layer_norm(g: GraphBuilder, norm: SpatialLayerNorm, x: Value, name: str) -> Value:
    if g.opset < 17:
        return _layer_norm_in_parts(g, x, 1, norm.norm.eps, name)
    # the operator knows trailing axes only; two transposes are faster than its parts over axis 1
    x = g.transpose(x, f"{name}.channels_last", [0, 2, 3, 1])
    x = _layer_norm(g, norm.norm, x, name)
    return g.transpose(x, f"{name}.channels_first", [0, 3, 1, 2])


def _identity(_g: GraphBuilder, _module: nn.Module, x: Value, _name: str) -> Value:
    return x


def _sequential(g: GraphBuilder, module: nn.Sequential, x: Value, name: str) -> Value:
    for child_name, child in module.named_children():
        x = g.emit(child, x, f"{name}.{child_name}")
    return x


def _stage_maps(g: GraphBuilder, blocks: StageMaps, x: Value, name: str) -> Value:
    for child_name, child in blocks.named_children():
        value = g.emit(child, x, f"{name}.{child_name}")
        if isinstance(child, ToMap):
            g.maps[child_name] = value
        else:
            x = value
    return x


def _to_map(g: GraphBuilder, module: ToMap, x: Value, name: str) -> Value:
    x = g.reshape(x, f"{name}.grid", [g.batch, *module.grid, dims(x)[1]])
    return g.transpose(x, f"{name}.channels_first", [0, 3, 1, 2])


def _residual(g: GraphBuilder, block: Residual, x: Value, name: str) -> Value:
    return g.like("Add", [x, g.emit(block.m, x, f"{name}.m")], f"{name}.add")


def _pooled_residual(g: GraphBuilder, block: PooledResidual, x: Value, name: str) -> Value:
    *hidden_layers, (last_name, last) = block.m.named_children()
    hidden = x
    for child_name, child in hidden_layers:
        hidden = g.emit(child, hidden, f"{name}.m.{child_name}")
    pooled = g.emit(block.pool, hidden, f"{name}.m.pool")
    branch = g.emit(last, pooled, f"{name}.m.{last_name}")
    return g.like("Add", [g.emit(block.pool, x, f"{name}.pool"), branch], f"{name}.add")


def _to_tokens(g: GraphBuilder, _module: ToTokens, x: Value, name: str) -> Value:
    x = g.transpose(x, f"{name}.transpose", [0, 2, 3, 1])  # B, H, W, C
    _, height, width, channels = dims(x)
    return g.reshape(x, f"{name}.reshape", [g.rows(int(height) * int(width)), channels])


def _subsample(g: GraphBuilder, module: Subsample, x: Value, name: str) -> Value:
    (height, width), stride, channels = module.grid, module.stride, dims(x)[1]
    out_height, out_width = subsampled(module.grid, stride)
    x = g.reshape(x, f"{name}.grid", [g.batch, height, width, channels])
    starts, ends, axes = g.integers([0, 0]), g.integers([height, width]), g.integers([1, 2])
    x = g.op(
        "Slice",
        [x, starts, ends, axes, g.integers([stride, stride])],
        f"{name}.slice",
        [g.batch, out_height, out_width, channels],
    )
    return g.reshape(x, f"{name}.reshape", [g.rows(out_height * out_width), channels])


def _mean_pool(g: GraphBuilder, pool: MeanPool, x: Value, name: str) -> Value:
    x = g.reshape(x, f"{name}.tokens", [g.batch, pool.tokens, dims(x)[1]])
    return g.mean(x, [1], f"{name}.mean")


def _spatial_mean_pool(g: GraphBuilder, _pool: SpatialMeanPool, x: Value, name: str) -> Value:
    return g.mean(x, [2, 3], f"{name}.mean")


LAYER_EMITTERS: dict[type[nn.Module], Emitter] = {
    nn.Linear: _linear,
    nn.Conv2d: convolution,
    nn.Hardswish: _hardswish,
    nn.SiLU: _silu,
    nn.GELU: _gelu,
    nn.ReLU: _relu,
    nn.LayerNorm: _layer_norm,
    SpatialLayerNorm: _spatial_layer_norm,
    nn.Identity: _identity,
    nn.Sequential: _sequential,
    StageMaps: _stage_maps,
    ToMap: _to_map,
    SpatialToMap: _identity,
    Residual: _residual,
    PooledResidual: _pooled_residual,
    ToTokens: _to_tokens,
    Subsample: _subsample,
    MeanPool: _mean_pool,
    SpatialMeanPool: _spatial_mean_pool,
}
