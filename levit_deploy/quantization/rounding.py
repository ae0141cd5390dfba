"""Take the rounding out of a quantized graph again, block by block or by operator."""

from collections.abc import Collection

import onnx

from levit_deploy.targets.onnx_opsets import ROUNDING_OPS

QUANTIZED_OPS = ("Conv", "Gemm")


def block_of(node: str) -> str:
    """The block of a node by name: a convolution of the stem with its activation, or of the trunk.

    'patch_embed.0' and 'patch_embed.1' are of 'patch_embed.0', 'blocks.3.m.qkv' is of 'blocks.3'.
    """
    part, number, *_ = [*node.split("."), ""]
    if part == "patch_embed":
        number = str(int(number) - int(number) % 2)
    return f"{part}.{number}" if part in ("patch_embed", "blocks") else part


def quantized_blocks(model: onnx.ModelProto) -> tuple[str, ...]:
    """The blocks that compute with rounded numbers, in their order."""
    rounded = {
        name for node in model.graph.node if node.op_type in ROUNDING_OPS for name in node.output
    }
    blocks = [
        block_of(node.name)
        for node in model.graph.node
        if node.op_type in QUANTIZED_OPS and rounded & set(node.input)
    ]
    return tuple(dict.fromkeys(blocks))


def restored(
    quantized: onnx.ModelProto, plain: onnx.ModelProto, blocks: Collection[str]
) -> onnx.ModelProto:
    """The quantized graph with these blocks as they are in the float graph."""
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    originals = {node.name: node for node in plain.graph.node}
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    own = {x for n in plain.graph.node if block_of(n.name) in blocks for x in n.output}
    needed = set()
    for node in result.graph.node:
        if node.op_type in ROUNDING_OPS:
            continue
        for i, name in enumerate(originals[node.name].input):
            # another block rounds its own products, but not the values it only passes on
            if block_of(node.name) in blocks or (name in own and node.op_type not in QUANTIZED_OPS):
                node.input[i] = name
                needed |= weights.keys() & {name}
    _keep_nodes(result, [n for n in result.graph.node if not needed & set(n.output)])
    present = {tensor.name for tensor in result.graph.initializer}
    result.graph.initializer.extend(weights[name] for name in sorted(needed - present))
    return _pruned(result)


def only_products_rounded(quantized: onnx.ModelProto, plain: onnx.ModelProto) -> onnx.ModelProto:
    """A quantized graph in which all operators but Conv and Gemm take the float values.

    If onnxruntime's tool has rounded a value for a product, it hands the rounded one to every
    operator. The output of a Conv is in bytes only, and has no float value.
    """
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    originals = {node.name: node for node in plain.graph.node}
    bytes_only = {x for n in plain.graph.node if n.op_type == "Conv" for x in n.output}
    for node in result.graph.node:
        if node.op_type not in (*ROUNDING_OPS, *QUANTIZED_OPS):
            for i, name in enumerate(originals[node.name].input):
                if name not in bytes_only:
                    node.input[i] = name
    return _pruned(result)


def _pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without rounding and weights that nothing uses any more."""
    graph, ends = model.graph, {value.name for value in model.graph.output}
    while True:
        used = ends | {name for node in graph.node for name in node.input}
        kept = [node for node in graph.node if used & set(node.output)]
        if len(kept) == len(graph.node):
            break
        _keep_nodes(model, kept)
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    return model


def _keep_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)
