"""Emit the int8 form of a network that OpenVINO runs on bytes.

Measured (docs/int8.md): OpenVINO takes attention's products of signed bytes with zero point 0, and
computes them in float otherwise. It computes what follows a product together with it, up to the
rounding. So a rounding stands right behind its product, with the HardSwish between, and before
anything is moved. What comes out of a HardSwish lies to one side of 0, so that a zero point makes
its steps half as wide.
"""

from __future__ import annotations

from torch import nn

from levit_deploy.model import Attention, AttentionSubsample
from levit_deploy.targets.onnx_attention import (
    ATTENTION_EMITTERS,
    TokenAttention,
    attention_probabilities,
    heads_first,
)
from levit_deploy.targets.onnx_graph import Emitter, GraphBuilder, Value, dims
from levit_deploy.targets.onnx_int8 import MOST_KEYS
from levit_deploy.targets.onnx_int8_graph import Int8Builder
from levit_deploy.targets.onnx_layers import LAYER_EMITTERS, convolution


def _hardswish(g: GraphBuilder, module: nn.Hardswish, x: Value, name: str) -> Value:
    assert isinstance(g, Int8Builder)
    x = LAYER_EMITTERS[nn.Hardswish](g, module, x, name)
    return g.rounded(x, g.behind(name)[0], kind="uint8")


def _rounded_convolution(g: GraphBuilder, conv: nn.Conv2d, x: Value, name: str) -> Value:
    """The last convolution is rounded, too: its map becomes tokens, as bytes."""
    assert isinstance(g, Int8Builder)
    x = convolution(g, conv, x, name)
    return x if g.behind(name)[1] is not None else g.rounded(x, name)


def _attention(g: GraphBuilder, module: Attention, x: Value, name: str) -> Value:
    assert isinstance(g, Int8Builder)
    parts = {"q": module.key_dim, "k": module.key_dim, "v": module.value_dim}
    x = g.emit(module.norm, x, f"{name}.norm")
    q, k, v = _split_heads(g, module, module.qkv, parts, x, name, "qkv")
    return _attend(g, module, q, k, v, name)


def _attention_subsample(g: GraphBuilder, module: AttentionSubsample, x: Value, name: str) -> Value:
    assert isinstance(g, Int8Builder)
    x = g.rounded(x, f"{name}.kv")  # all of them, before some are taken for q
    q = g.rounded(g.emit(module.q, x, f"{name}.q"), _part(name))
    q = heads_first(g, module, q, module.out_tokens, f"{name}.q")
    parts = {"k": module.key_dim, "v": module.value_dim}
    k, v = _split_heads(g, module, module.kv, parts, x, name, "kv")
    return g.rounded(_attend(g, module, q, k, v, name), f"{name}.proj.1")


def _split_heads(
    g: Int8Builder,
    module: TokenAttention,
    layer: nn.Module,
    parts: dict[str, int],
    x: Value,
    name: str,
    which: str,
) -> list[Value]:
    """Compute q, k and v, or k and v, by one product: (B, h, N, width) each."""
    x = g.rounded(g.emit(layer, x, f"{name}.{which}"), _part(name))
    x = heads_first(g, module, x, module.tokens, f"{name}.{which}")
    return g.split(x, {f"{name}.{part}": size for part, size in parts.items()}, 3, f"{name}.split")


def _attend(
    g: Int8Builder,
    module: TokenAttention,
    q: Value,
    k: Value,
    v: Value,
    name: str,
) -> Value:
    """softmax(q k + bias) v, and the projection: (B, h, N, width) -> (B * Nq, C)."""
    assert isinstance(module.proj, nn.Sequential)
    activation, projection = module.proj
    k = g.transpose(k, f"{name}.k_transposed", [0, 1, 3, 2])
    probabilities = attention_probabilities(g, module, q, k, name)
    queries = int(dims(q)[2])
    if not (MOST_KEYS < module.tokens > queries):  # a subsampling of many keys needs finer ones
        probabilities = g.rounded(probabilities, _part(name), within=(0.0, 1.0), kind="uint8")
    shape = [g.batch, module.num_heads, queries, module.value_dim]
    x = g.op("MatMul", [probabilities, v], f"{name}.weighted", shape)
    x = g.rounded(g.emit(activation, x, f"{name}.proj.0"), f"{name}.proj.1")
    x = g.transpose(x, f"{name}.tokens_first", [0, 2, 1, 3])
    x = g.reshape(x, f"{name}.rows", [g.rows(queries), module.num_heads * module.value_dim])
    return g.emit(projection, x, f"{name}.proj.1")


def _part(name: str) -> str:
    """The two products of an attention, which stay float together."""
    return f"{name}.attention"


OPENVINO_EMITTERS: dict[type[nn.Module], Emitter] = {
    **LAYER_EMITTERS,
    **ATTENTION_EMITTERS,
    nn.Hardswish: _hardswish,
    nn.Conv2d: _rounded_convolution,
    Attention: _attention,
    AttentionSubsample: _attention_subsample,
}
