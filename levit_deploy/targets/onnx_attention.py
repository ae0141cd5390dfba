"""Emit attention as ONNX: a subgraph, or from opset 23 the standard Attention operator.

The operator takes q, k and v as (B, N, h * width), all heads side by side, so the rows of the layer
before it are put in that order and nothing has to be transposed. The subgraph keeps the
checkpoint's order, head by head.

Shapes: B batch, N tokens (keys), Nq queries, h heads, k and d the key and value widths per head.
"""

import numpy as np
import numpy.typing as npt
from torch import nn

from levit_deploy.layout import SpatialAttention, SpatialAttentionSubsample
from levit_deploy.model import Attention, AttentionSubsample
from levit_deploy.targets.onnx_graph import Emitter, GraphBuilder, Value, dims
from levit_deploy.targets.onnx_layers import array, gemm

TokenAttention = Attention | AttentionSubsample
MapAttention = SpatialAttention | SpatialAttentionSubsample


def _attention(g: GraphBuilder, module: Attention, x: Value, name: str) -> Value:
    parts = {"q": module.key_dim, "k": module.key_dim, "v": module.value_dim}
    x = g.emit(module.norm, x, f"{name}.norm")
    if g.has_attention_operator:
        q, k, v = _side_by_side(g, module, module.qkv, parts, x, f"{name}.qkv")
        return attend_by_operator(g, module, q, k, v, name)
    qkv = heads_first(g, module, g.emit(module.qkv, x, f"{name}.qkv"), module.tokens, f"{name}.qkv")
    q, k, v = g.split(qkv, _qualified(parts, name), 3, f"{name}.split")
    return _attend_by_subgraph(g, module, q, k, v, name)


def _attention_subsample(g: GraphBuilder, module: AttentionSubsample, x: Value, name: str) -> Value:
    parts = {"k": module.key_dim, "v": module.value_dim}
    q = g.emit(module.q, x, f"{name}.q")
    if g.has_attention_operator:
        q = g.reshape(q, f"{name}.q.tokens", [g.batch, module.out_tokens, dims(q)[1]])
        k, v = _side_by_side(g, module, module.kv, parts, x, f"{name}.kv")
        return attend_by_operator(g, module, q, k, v, name)
    q = heads_first(g, module, q, module.out_tokens, f"{name}.q")
    kv = heads_first(g, module, g.emit(module.kv, x, f"{name}.kv"), module.tokens, f"{name}.kv")
    k, v = g.split(kv, _qualified(parts, name), 3, f"{name}.split")
    return _attend_by_subgraph(g, module, q, k, v, name)


def _qualified(parts: dict[str, int], name: str) -> dict[str, int]:
    return {f"{name}.{part}": size for part, size in parts.items()}


def _side_by_side(
    g: GraphBuilder,
    module: TokenAttention,
    layer: nn.Module,
    parts: dict[str, int],
    x: Value,
    name: str,
) -> list[Value]:
    """Compute q, k, v (or k, v) as (B, N, h * width) each."""
    assert isinstance(layer, nn.Linear)
    order = np.concatenate(rows_by_part(module, layer, parts))
    x = gemm(g, x, array(layer.weight)[order], array(layer.bias)[order], name)
    x = g.reshape(x, f"{name}.tokens", [g.batch, module.tokens, layer.out_features])
    owner = name.rpartition(".")[0]
    sizes = {part: module.num_heads * size for part, size in _qualified(parts, owner).items()}
    return g.split(x, sizes, 2, f"{owner}.split")


def rows_by_part(
    module: TokenAttention, layer: nn.Linear, parts: dict[str, int]
) -> list[npt.NDArray[np.int64]]:
    """The rows of each part, such as q, in a layer whose rows are ordered by head."""
    rows = np.arange(layer.out_features).reshape(module.num_heads, -1)  # h, q k v
    ends = np.cumsum(list(parts.values()))[:-1]
    return [part.ravel() for part in np.split(rows, ends, axis=1)]


def attend_by_operator(
    g: GraphBuilder, module: TokenAttention, q: Value, k: Value, v: Value, name: str
) -> Value:
    """Append attention: q (B, Nq, h * k), k and v (B, N, h * width) -> (B * Nq, C)."""
    bias = g.weight(array(module.attention_bias())[None], f"{name}.attention_bias")  # 1, h, Nq, N
    queries, width = int(dims(q)[1]), module.num_heads * module.value_dim
    x = g.op(
        "Attention",
        [q, k, v, bias],
        f"{name}.attention",
        [g.batch, queries, width],
        q_num_heads=module.num_heads,
        kv_num_heads=module.num_heads,
        scale=1.0,  # already in the weights of q
    )
    x = g.reshape(x, f"{name}.attention.rows", [g.rows(queries), width])
    return g.emit(module.proj, x, f"{name}.proj")


def heads_first(g: GraphBuilder, module: TokenAttention, x: Value, tokens: int, name: str) -> Value:
    """(B * N, h * width) -> (B, h, N, width)."""
    width = int(dims(x)[1]) // module.num_heads
    x = g.reshape(x, f"{name}.heads", [g.batch, tokens, module.num_heads, width])
    return g.transpose(x, f"{name}.heads_first", [0, 2, 1, 3])


def _attend_by_subgraph(
    g: GraphBuilder, module: TokenAttention, q: Value, k: Value, v: Value, name: str
) -> Value:
    k = g.transpose(k, f"{name}.k_transposed", [0, 1, 3, 2])  # B, h, k, N
    attention = attention_probabilities(g, module, q, k, name)
    queries = int(dims(q)[2])
    shape = [g.batch, module.num_heads, queries, module.value_dim]
    x = g.op("MatMul", [attention, v], f"{name}.weighted", shape)
    x = g.transpose(x, f"{name}.tokens_first", [0, 2, 1, 3])
    width = module.num_heads * module.value_dim
    x = g.reshape(x, f"{name}.rows", [g.rows(queries), width])
    return g.emit(module.proj, x, f"{name}.proj")


def attention_probabilities(
    g: GraphBuilder, module: TokenAttention | MapAttention, q: Value, k: Value, name: str
) -> Value:
    """softmax(q k + bias): q (B, h, Nq, k), k (B, h, k, N) -> (B, h, Nq, N)."""
    bias = g.weight(array(module.attention_bias()), f"{name}.attention_bias")
    shape = [g.batch, module.num_heads, dims(q)[2], dims(k)[3]]
    scores = g.op("MatMul", [q, k], f"{name}.scores", shape)
    biased = g.like("Add", [scores, bias], f"{name}.biased")
    return g.op("Softmax", [biased], f"{name}.softmax", shape, axis=-1)


def _spatial_attention(g: GraphBuilder, module: SpatialAttention, x: Value, name: str) -> Value:
    parts = {"q": module.key_dim, "k": module.key_dim, "v": module.value_dim}
    x = g.emit(module.norm, x, f"{name}.norm")
    qkv = _heads_of_map(g, module, g.emit(module.qkv, x, f"{name}.qkv"), f"{name}.qkv")
    q, k, v = g.split(qkv, _qualified(parts, name), 2, f"{name}.split")
    return _attend_on_map(g, module, q, k, v, module.grid, name)


def _spatial_attention_subsample(
    g: GraphBuilder, module: SpatialAttentionSubsample, x: Value, name: str
) -> Value:
    parts = {"k": module.key_dim, "v": module.value_dim}
    kv = _heads_of_map(g, module, g.emit(module.kv, x, f"{name}.kv"), f"{name}.kv")
    k, v = g.split(kv, _qualified(parts, name), 2, f"{name}.split")
    q = _heads_of_map(g, module, g.emit(module.q, x, f"{name}.q"), f"{name}.q")
    return _attend_on_map(g, module, q, k, v, module.out_grid, name)


def _heads_of_map(g: GraphBuilder, module: MapAttention, x: Value, name: str) -> Value:
    """(B, h * width, H, W) -> (B, h, width, N)."""
    channels, height, width = (int(size) for size in dims(x)[1:])
    shape = [g.batch, module.num_heads, channels // module.num_heads, height * width]
    return g.reshape(x, f"{name}.heads", shape)


def _attend_on_map(
    g: GraphBuilder,
    module: MapAttention,
    q: Value,
    k: Value,
    v: Value,
    grid: tuple[int, int],
    name: str,
) -> Value:
    q = g.transpose(q, f"{name}.q_transposed", [0, 1, 3, 2])  # B, h, Nq, k
    attention = attention_probabilities(g, module, q, k, name)
    attention = g.transpose(attention, f"{name}.softmax_transposed", [0, 1, 3, 2])
    shape = [g.batch, module.num_heads, module.value_dim, grid[0] * grid[1]]
    x = g.op("MatMul", [v, attention], f"{name}.weighted", shape)
    x = g.reshape(x, f"{name}.map", [g.batch, module.num_heads * module.value_dim, *grid])
    return g.emit(module.proj, x, f"{name}.proj")


ATTENTION_EMITTERS: dict[type[nn.Module], Emitter] = {
    Attention: _attention,
    AttentionSubsample: _attention_subsample,
    SpatialAttention: _spatial_attention,
    SpatialAttentionSubsample: _spatial_attention_subsample,
}
