"""Emit the int8 form of a network, in which onnxruntime runs nearly everything on bytes.

Measured (docs/int8.md): a HardSwish is a clip and a product of bytes, the first convolution takes
four neighbouring pixels at once, and q, k and v are three products. Attention as a subgraph is
rounded, too. The Attention operator takes floats, and so do the sums along the residual branches.

Shapes: B batch, C channels, H and W height and width, N tokens, Nq queries, h heads, k and d the
key and value widths per head.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from levit_deploy.model import Attention, AttentionSubsample, LeViT
from levit_deploy.passes.pool_early import PooledResidual
from levit_deploy.passes.replace import copied
from levit_deploy.targets.onnx_attention import (
    ATTENTION_EMITTERS,
    TokenAttention,
    attend_by_operator,
    attention_probabilities,
    heads_first,
    rows_by_part,
)
from levit_deploy.targets.onnx_graph import Emitter, GraphBuilder, Value, dims
from levit_deploy.targets.onnx_int8_graph import Int8Builder
from levit_deploy.targets.onnx_layers import LAYER_EMITTERS, array, convolution, gemm
from levit_deploy.targets.onnx_rounding import BYTE, Grid, gate_grid

FIRST = "patch_embed.0"
PIXELS_AT_ONCE = 4
MOST_KEYS = 64  # the steps of a byte are coarse beside the probabilities of more


def _hardswish(g: GraphBuilder, _module: nn.Hardswish, x: Value, name: str) -> Value:
    """X times (x + 3) / 6, which is clipped to 0 and 1.

    On the grid of gated values, the clipped bytes are that factor on a grid of their own.
    """
    assert isinstance(g, Int8Builder)
    part, _ = g.behind(name)
    x = g.rounded(x, part, gated=True)
    known = g.bytes_of(x)
    if known is None or not known[1].is_gated or not g.rounds(part):
        gate = g.op("HardSigmoid", [x], f"{name}.gate", dims(x), alpha=1 / 6, beta=0.5)
        return g.like("Mul", [x, gate], f"{name}.hardswish")
    number, grid = known
    if 2 * grid.zero_point < BYTE:
        ends = [g.byte(0), g.byte(2 * grid.zero_point)]
        number = g.like("Clip", [number, *ends], f"{name}.clip")
    gate = g.read(number, gate_grid(grid), f"{name}.gate")
    return g.like("Mul", [x, gate], f"{name}.hardswish")


def _relu(g: GraphBuilder, _module: nn.ReLU, x: Value, name: str) -> Value:
    """The usual one, but for the last: that is averaged, so that no bytes are behind it.

    onnxruntime would join it to the product before it, and compute both in float. And OpenVINO
    takes a wrong mean of bytes, so they are before it.
    """
    assert isinstance(g, Int8Builder)
    if isinstance(g.module(name.rpartition(".m.")[0]), PooledResidual):
        x = g.rounded(x, g.behind(name)[0])
    return g.like("Relu", [x], f"{name}.relu")


def _rounded_convolution(g: GraphBuilder, conv: nn.Conv2d, x: Value, name: str) -> Value:
    """A convolution gives bytes: onnxruntime has none from bytes to floats."""
    assert isinstance(g, Int8Builder)
    if name == FIRST:
        return _first_convolution(g, conv, x, name)
    return g.rounded(convolution(g, conv, x, name), name, gated=_is_gated(g, name))


def _is_gated(g: Int8Builder, name: str) -> bool:
    """Whether a HardSwish is behind a layer."""
    return isinstance(g.behind(name)[1], nn.Hardswish)


def _first_convolution(g: Int8Builder, conv: nn.Conv2d, x: Value, name: str) -> Value:
    """The first convolution on four neighbouring pixels of a row: (B, C, H, W) -> (B, C', H', W').

    The four are 4 C channels of one, so that products are longer than three. Each position gives
    two neighbouring results, 2 C' channels. A row whose width is no multiple of four goes the usual
    way.
    """
    batch, channels, height, width = dims(x)
    height, width, channels = int(height), int(width), int(channels)
    x = g.rounded(x, name)
    if width % PIXELS_AT_ONCE or conv.kernel_size != (3, 3) or conv.stride != (2, 2):
        return g.rounded(convolution(g, conv, x, name), name, gated=_is_gated(g, name))
    x = g.transpose(x, f"{name}.channels_last", [0, 2, 3, 1])
    wide = [batch, height, width // PIXELS_AT_ONCE, PIXELS_AT_ONCE * channels]
    x = g.reshape(x, f"{name}.four_pixels", wide)
    x = g.transpose(x, f"{name}.channels_first", [0, 3, 1, 2])
    weight, bias = array(conv.weight), array(conv.bias)  # type: ignore[arg-type]
    out_height, out_width, out = (height + 1) // 2, width // 2, len(bias)
    x = g.op(
        "Conv",
        g.operands(x, _for_four_pixels(weight), np.concatenate([bias, bias]), name),
        f"{name}.conv",
        [batch, 2 * out, out_height, out_width // 2],
        kernel_shape=[3, 2],
        strides=[2, 1],
        pads=[1, 1, 1, 0],
    )
    x = g.rounded(x, name, gated=_is_gated(g, name))
    x = g.transpose(x, f"{name}.two_results", [0, 2, 3, 1])
    x = g.reshape(x, f"{name}.results", [batch, out_height, out_width, out])
    return g.transpose(x, name, [0, 3, 1, 2])


def _for_four_pixels(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The weights (C', C, 3, 3) of two neighbouring results, (2 C', 4 C, 3, 2).

    The second column is the four pixels at the results' own place, the first those before them.
    """
    out, channels, height, _ = weight.shape
    result = np.zeros((2, out, PIXELS_AT_ONCE, channels, height, 2), weight.dtype)
    for which in (0, 1):
        for across in range(3):
            pixel = 2 * which - 1 + across  # from the first of the four
            column, place = divmod(pixel + PIXELS_AT_ONCE, PIXELS_AT_ONCE)
            result[which, :, place, :, :, column] = weight[:, :, :, across]
    return result.reshape(2 * out, PIXELS_AT_ONCE * channels, height, 2)


def _attention(g: GraphBuilder, module: Attention, x: Value, name: str) -> Value:
    assert isinstance(g, Int8Builder)
    parts = {"q": module.key_dim, "k": module.key_dim, "v": module.value_dim}
    x = g.emit(module.norm, x, f"{name}.norm")
    q, k, v = _products(g, module, module.qkv, parts, x, f"{name}.qkv")
    if g.has_attention_operator:
        q, k, v = (_as_batch(g, value, module.tokens) for value in (q, k, v))
        return attend_by_operator(g, module, q, k, v, name)
    return _attend_on_bytes(g, module, q, k, v, module.tokens, name)


def _attention_subsample(g: GraphBuilder, module: AttentionSubsample, x: Value, name: str) -> Value:
    assert isinstance(g, Int8Builder)
    x = g.rounded(x, f"{name}.kv.k")  # all of them, before some are taken for q
    parts = {"k": module.key_dim, "v": module.value_dim}
    q = g.emit(module.q, x, f"{name}.q")
    k, v = _products(g, module, module.kv, parts, x, f"{name}.kv")
    x = _attend_on_bytes(g, module, q, k, v, module.out_tokens, name)
    # a product and a sum read it: if the sum took floats, onnxruntime would compute it in float
    return g.rounded(x, f"{name}.proj.1")


def _products(
    g: Int8Builder,
    module: TokenAttention,
    layer: nn.Module,
    parts: dict[str, int],
    x: Value,
    name: str,
) -> list[Value]:
    """Compute q, k, v (or k, v) as one product each: (B * N, h * width)."""
    assert isinstance(layer, nn.Linear)
    weight, bias = array(layer.weight), array(layer.bias)
    return [
        gemm(g, x, weight[rows], bias[rows], f"{name}.{part}")
        for part, rows in zip(parts, rows_by_part(module, layer, parts), strict=True)
    ]


def _as_batch(g: Int8Builder, x: Value, tokens: int) -> Value:
    name = x.name.removesuffix(".gemm")
    return g.reshape(x, f"{name}.tokens", [g.batch, tokens, dims(x)[1]])


def _attend_on_bytes(
    g: Int8Builder,
    module: TokenAttention,
    q: Value,
    k: Value,
    v: Value,
    queries: int,
    name: str,
) -> Value:
    """softmax(q k + bias) v, with products of bytes: (B * N, h * width) -> (B * Nq, C).

    The probabilities of many keys stay float, as most of them would be rounded to 0.
    """
    part = f"{name}.attention"
    q, k, v = (g.rounded(value, part) for value in (q, k, v))
    q = heads_first(g, module, q, queries, f"{name}.q")
    v = heads_first(g, module, v, module.tokens, f"{name}.v")
    heads = [g.batch, module.tokens, module.num_heads, module.key_dim]
    k = g.transpose(g.reshape(k, f"{name}.k.heads", heads), f"{name}.k_transposed", [0, 2, 3, 1])
    probabilities = attention_probabilities(g, module, q, k, name)
    if module.tokens <= MOST_KEYS:
        probabilities = g.rounded(probabilities, part, within=(0.0, 1.0))
    shape = [g.batch, module.num_heads, queries, module.value_dim]
    x = g.op("MatMul", [probabilities, v], f"{name}.weighted", shape)
    x = _rounded_for(g, x, module.proj, f"{name}.proj")
    x = g.transpose(x, f"{name}.tokens_first", [0, 2, 1, 3])
    width = module.num_heads * module.value_dim
    x = g.reshape(x, f"{name}.rows", [g.rows(queries), width])
    return g.emit(module.proj, x, f"{name}.proj")


def _rounded_for(g: Int8Builder, x: Value, proj: nn.Module, name: str) -> Value:
    """Round as the projection does it first, so that what lies between moves bytes."""
    assert isinstance(proj, nn.Sequential)
    if isinstance(proj[0], nn.Hardswish):
        return g.rounded(x, f"{name}.1", gated=True)
    return g.rounded(x, f"{name}.1") if isinstance(proj[0], nn.Identity) else x


def pixels_on_bytes(
    g: GraphBuilder, pixels: Value, mean: npt.NDArray[np.float64], _std: npt.NDArray[np.float64]
) -> Value:
    """Append pixels / 255 - mean on bytes: uint8 (B, H, W, C) -> float32 (B, C, H, W).

    The standard deviation is in the weights behind it (``folded_std``).
    """
    assert isinstance(g, Int8Builder)
    name = pixels.name
    batch, height, width, channels = dims(pixels)
    row = int(width) * int(channels)
    x = g.reshape(pixels, f"{name}.rows", [batch, height, row])
    x = g.read(x, Grid(float(np.float32(1 / BYTE)), 0), f"{name}.unit")
    less = np.tile(-mean, int(width)).astype(np.float32)
    x = g.like("Add", [x, g.row(less, f"{name}.mean", FIRST)], f"{name}.centred")
    x = g.rounded(x, FIRST, within=(-float(mean.max()), 1 - float(mean.min())))
    x = g.reshape(x, f"{name}.image", [batch, height, width, channels])
    return g.transpose(x, f"{name}.channels_first", [0, 3, 1, 2])


def folded_std(model: LeViT, std: npt.NDArray[np.float64]) -> LeViT:
    """A copy of a model whose first convolution divides each channel by its deviation."""
    model = copied(model)
    first = model.patch_embed[0]
    assert isinstance(first, nn.Conv2d)
    weight = first.weight.detach().double() / torch.from_numpy(std)[:, None, None]
    first.weight = nn.Parameter(weight.float())
    return model


INT8_EMITTERS: dict[type[nn.Module], Emitter] = {
    **LAYER_EMITTERS,
    **ATTENTION_EMITTERS,
    nn.Hardswish: _hardswish,
    nn.ReLU: _relu,
    nn.Conv2d: _rounded_convolution,
    Attention: _attention,
    AttentionSubsample: _attention_subsample,
}
