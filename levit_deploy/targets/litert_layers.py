"""Emit each plain layer in the tokens layout as LiteRT: one small function a module type.

LiteRT keeps the channels last, (B, H, W, C), so that a map and its tokens are the same numbers in
the same order. Tokens are kept two-dimensional, (B * N, C): a linear layer rounds the inputs of a
rounded weight row by row, so each token has a scale of its own.

Shapes: B batch, N tokens (keys), Nq queries, h heads, k and d the key and value widths per head.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from levit_deploy.arrays import FloatArray
from levit_deploy.config import subsampled
from levit_deploy.model import (
    Attention,
    AttentionSubsample,
    MeanPool,
    Residual,
    Subsample,
    ToTokens,
)
from levit_deploy.passes.pool_early import PooledResidual
from levit_deploy.passes.stage_maps import StageMaps, ToMap
from levit_deploy.targets.litert_graph import Emitter, GraphBuilder, Value

TokenAttention = Attention | AttentionSubsample

# Left in float: over the few channels of an image, rounding takes longer than it saves
# (docs/runtimes.md).
FIRST = "patch_embed.0"


def _array(tensor: Tensor) -> FloatArray:
    """The numbers of a parameter or buffer, without a copy."""
    numbers: FloatArray = tensor.detach().numpy()
    return numbers


def _fully_connected(
    g: GraphBuilder, x: Value, weight: FloatArray, bias: FloatArray, name: str
) -> Value:
    """Append x (rows, in) times weight (out, in), plus bias (out,): (rows, out)."""
    inputs = [x, g.weight(weight, f"{name}.weight"), g.constant(bias, f"{name}.bias")]
    options = schema.FullyConnectedOptionsT(asymmetricQuantizeInputs=g.rounds)
    version = 12 if g.rounds else 1  # that of weights with a scale for each channel
    shape = [x.shape[0], len(weight)]
    return g.op("FULLY_CONNECTED", inputs, name, shape, options, version)


def _linear(g: GraphBuilder, linear: nn.Linear, x: Value, name: str) -> Value:
    return _fully_connected(g, x, _array(linear.weight), _array(linear.bias), name)


def _convolution(g: GraphBuilder, conv: nn.Conv2d, x: Value, name: str) -> Value:
    """Append a convolution: (B, H, W, C) -> (B, H', W', C')."""
    assert not isinstance(conv.padding, str)
    assert conv.bias is not None
    stride, padding, kernel = conv.stride[0], conv.padding[0], conv.kernel_size[0]
    # LiteRT's own padding of an even side is all at its end
    x = _pad(g, x, (padding, padding), (padding, padding), name)
    numbers = _array(conv.weight).transpose(0, 2, 3, 1)
    is_rounded = g.rounds and name != FIRST
    weight = (g.weight if is_rounded else g.constant)(numbers, f"{name}.weight")
    inputs = [x, weight, g.constant(_array(conv.bias), f"{name}.bias")]
    options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideW=stride, strideH=stride)
    sides = [(side - kernel) // stride + 1 for side in x.shape[1:3]]
    shape = [x.shape[0], *sides, conv.out_channels]
    # 5 is the version of weights with a scale for each channel
    return g.op("CONV_2D", inputs, name, shape, options, 5 if is_rounded else 1)


def _hardswish(g: GraphBuilder, _module: nn.Hardswish, x: Value, name: str) -> Value:
    return g.like("HARD_SWISH", [x], name, schema.HardSwishOptionsT())


def _silu(g: GraphBuilder, _module: nn.SiLU, x: Value, name: str) -> Value:
    return g.like(
        "MUL", [x, g.like("LOGISTIC", [x], f"{name}.sigmoid")], name, schema.MulOptionsT()
    )


def _gelu(g: GraphBuilder, _module: nn.GELU, x: Value, name: str) -> Value:
    return g.like("GELU", [x], name, schema.GeluOptionsT())


def _relu(g: GraphBuilder, _module: nn.ReLU, x: Value, name: str) -> Value:
    return g.like("RELU", [x], name)


def _layer_norm(g: GraphBuilder, norm: nn.LayerNorm, x: Value, name: str) -> Value:
    assert not norm.elementwise_affine  # fold_layernorm has put that part into the next layer
    mean = g.mean(x, 1, f"{name}.mean", keep=True)
    centred = g.like("SUB", [x, mean], f"{name}.centred", schema.SubOptionsT())
    squares = g.like("MUL", [centred, centred], f"{name}.squares", schema.MulOptionsT())
    variance = g.mean(squares, 1, f"{name}.variance", keep=True)
    eps = g.constant(np.array([norm.eps], np.float32), f"{name}.eps")
    above_zero = g.like("ADD", [variance, eps], f"{name}.above_zero", schema.AddOptionsT())
    deviation = g.like("SQRT", [above_zero], f"{name}.deviation")
    return g.like("DIV", [centred, deviation], name, schema.DivOptionsT())


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
    return g.reshape(x, name, [g.batch, *module.grid, x.shape[1]])


def _residual(g: GraphBuilder, block: Residual, x: Value, name: str) -> Value:
    return g.like("ADD", [x, g.emit(block.m, x, f"{name}.m")], name, schema.AddOptionsT())


def _pooled_residual(g: GraphBuilder, block: PooledResidual, x: Value, name: str) -> Value:
    *hidden_layers, (last_name, last) = block.m.named_children()
    hidden = x
    for child_name, child in hidden_layers:
        hidden = g.emit(child, hidden, f"{name}.m.{child_name}")
    pooled = g.emit(block.pool, hidden, f"{name}.m.pool")
    branch = g.emit(last, pooled, f"{name}.m.{last_name}")
    return g.like(
        "ADD", [g.emit(block.pool, x, f"{name}.pool"), branch], name, schema.AddOptionsT()
    )


def _to_tokens(g: GraphBuilder, _module: ToTokens, x: Value, name: str) -> Value:
    batch, height, width, channels = x.shape
    return g.reshape(x, name, [batch * height * width, channels])


def _subsample(g: GraphBuilder, module: Subsample, x: Value, name: str) -> Value:
    """Keep the first of every ``stride`` rows and columns.

    The runtime's fast kernels know slices without a step only. So the columns that go are laid out
    as channels, and the rows as an axis, and both are cut off. A grid that the stride does not
    divide is filled up first.
    """
    (height, width), stride, channels = module.grid, module.stride, x.shape[1]
    rows, columns = subsampled(module.grid, stride)
    x = g.reshape(x, f"{name}.grid", [g.batch, height, width, channels])
    x = _pad(g, x, (0, rows * stride - height), (0, columns * stride - width), name)
    x = g.reshape(x, f"{name}.strides", [g.batch * rows, stride, columns, stride * channels])
    shape = [g.batch * rows, 1, columns, channels]
    inputs = [x, g.integers([0] * 4, f"{name}.begin"), g.integers(shape, f"{name}.size")]
    x = g.op("SLICE", inputs, f"{name}.kept", shape, schema.SliceOptionsT())
    return g.reshape(x, name, [g.batch * rows * columns, channels])


def _pad(
    g: GraphBuilder, x: Value, rows: tuple[int, int], columns: tuple[int, int], name: str
) -> Value:
    """Append zeros before and behind the rows and columns of a map, if there are any."""
    if rows == columns == (0, 0):
        return x
    batch, height, width, channels = x.shape
    paddings = g.integers([(0, 0), rows, columns, (0, 0)], f"{name}.paddings")
    shape = [batch, height + sum(rows), width + sum(columns), channels]
    return g.op("PAD", [x, paddings], f"{name}.padded", shape, schema.PadOptionsT())


def _mean_pool(g: GraphBuilder, pool: MeanPool, x: Value, name: str) -> Value:
    x = g.reshape(x, f"{name}.tokens", [g.batch, pool.tokens, x.shape[1]])
    return g.mean(x, 1, name)


def _attention(g: GraphBuilder, module: Attention, x: Value, name: str) -> Value:
    x = g.emit(module.norm, x, f"{name}.norm")
    widths = {"q": module.key_dim, "k": module.key_dim, "v": module.value_dim}
    q, k, v = _heads_first(g, module, module.qkv, widths, x, f"{name}.qkv")
    return _attend(g, module, q, k, v, name)


def _attention_subsample(g: GraphBuilder, module: AttentionSubsample, x: Value, name: str) -> Value:
    widths = {"k": module.key_dim, "v": module.value_dim}
    k, v = _heads_first(g, module, module.kv, widths, x, f"{name}.kv")
    q = _heads(g, module, g.emit(module.q, x, f"{name}.q"), f"{name}.q")
    return _attend(g, module, q, k, v, name)


def _heads_first(
    g: GraphBuilder,
    module: TokenAttention,
    layer: nn.Module,
    widths: dict[str, int],
    x: Value,
    name: str,
) -> list[Value]:
    """Compute q, k, v (or k, v) as (B, h, N, width), each by a layer of its own."""
    assert isinstance(layer, nn.Linear)
    rows = np.arange(layer.out_features).reshape(module.num_heads, -1)  # by head: its q, k and v
    parts = np.split(rows, np.cumsum(list(widths.values()))[:-1], axis=1)
    weight, bias = _array(layer.weight), _array(layer.bias)
    values = []
    for part, members in zip(widths, parts, strict=True):
        own = members.ravel()
        value = _fully_connected(g, x, weight[own], bias[own], f"{name}.{part}")
        values.append(_heads(g, module, value, f"{name}.{part}"))
    return values


def _heads(g: GraphBuilder, module: TokenAttention, x: Value, name: str) -> Value:
    """(B * N, h * width) -> (B, h, N, width)."""
    tokens, width = x.shape[0] // g.batch, x.shape[1] // module.num_heads
    x = g.reshape(x, f"{name}.heads", [g.batch, tokens, module.num_heads, width])
    return g.transpose(x, f"{name}.heads_first", [0, 2, 1, 3])


def _attend(
    g: GraphBuilder, module: TokenAttention, q: Value, k: Value, v: Value, name: str
) -> Value:
    """Append softmax(q k + bias) v, all of them heads first: (B * Nq, h * d)."""
    batch, heads, queries, _ = q.shape
    shape = [batch, heads, queries, k.shape[2]]
    options = schema.BatchMatMulOptionsT(adjY=True)
    scores = g.op("BATCH_MATMUL", [q, k], f"{name}.scores", shape, options)
    bias = g.constant(_array(module.attention_bias())[None], f"{name}.attention_bias")
    biased = g.like("ADD", [scores, bias], f"{name}.biased", schema.AddOptionsT())
    attention = g.like("SOFTMAX", [biased], f"{name}.softmax", schema.SoftmaxOptionsT(beta=1.0))
    shape = [batch, heads, queries, v.shape[3]]
    options = schema.BatchMatMulOptionsT()
    x = g.op("BATCH_MATMUL", [attention, v], f"{name}.weighted", shape, options)
    x = g.transpose(x, f"{name}.tokens_first", [0, 2, 1, 3])
    x = g.reshape(x, f"{name}.rows", [batch * queries, heads * v.shape[3]])
    return g.emit(module.proj, x, f"{name}.proj")


EMITTERS: dict[type[nn.Module], Emitter] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.Hardswish: _hardswish,
    nn.SiLU: _silu,
    nn.GELU: _gelu,
    nn.ReLU: _relu,
    nn.LayerNorm: _layer_norm,
    nn.Identity: _identity,
    nn.Sequential: _sequential,
    Attention: _attention,
    AttentionSubsample: _attention_subsample,
    StageMaps: _stage_maps,
    ToMap: _to_map,
    Residual: _residual,
    PooledResidual: _pooled_residual,
    ToTokens: _to_tokens,
    Subsample: _subsample,
    MeanPool: _mean_pool,
}
