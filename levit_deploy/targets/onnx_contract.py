"""The contract of every ONNX file that we write, checked on the written file."""

from collections import Counter
from pathlib import Path

import onnx

from levit_deploy.errors import VerificationError, first_line
from levit_deploy.interface import (
    DEFAULT,
    INPUT_NAME,
    OUTPUT_NAME,
    PIXELS,
    PROBABILITIES,
    Interface,
)
from levit_deploy.targets.onnx_ends import with_usual_names
from levit_deploy.targets.onnx_opsets import ROUNDING_OPS, STANDARD_DOMAINS

# Left over from training, or shape arithmetic that an export should have done itself.
FORBIDDEN = ("BatchNormalization", "Gather", "Shape", "Constant", "Identity")
MODULE_NAMES = ("patch_embed", "to_tokens", "blocks", "pool", "head")
INT8_TYPES = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32}
INT8_TYPES |= {onnx.TensorProto.UINT16}


def check_contract(path: Path) -> dict[str, int]:
    """Return the file's number of nodes and operator set.

    Raises VerificationError with every clause that the file breaks.
    """
    broken = []
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # the checker's exceptions share no base class
        broken = [f"onnx.checker refuses it ({first_line(error)})"]
    # a graph that breaks a clause may not even load; the clause says more than the runtime would
    model = onnx.load(path, load_external_data=False)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    interface = Interface.from_metadata(metadata)
    broken += broken_clauses(with_usual_names(model, interface), interface)
    if broken:
        raise VerificationError(
            f"The file breaks its contract: {'; '.join(broken)}. Nothing was published. Please "
            "report this with the output of levit-deploy inspect."
        )
    return {"nodes": len(model.graph.node), "opset": model.opset_import[0].version}


def broken_clauses(model: onnx.ModelProto, interface: Interface = DEFAULT) -> list[str]:
    """Return the clauses that the graph breaks, in words."""
    graph = model.graph
    ends = [interface.input_name, *interface.output_names(len(graph.output))]
    outputs = {OUTPUT_NAME} if interface.has_classes else {*ends[1:]}  # of the network itself
    broken = _broken_ends(graph, interface)
    counts = Counter(node.op_type for node in graph.node)
    broken += [f"{counts[op]} {op} nodes" for op in FORBIDDEN if counts[op]]
    casts = [node for node in graph.node if node.op_type == "Cast" and not _is_end(node)]
    border = [node for node in casts if INPUT_NAME in node.input or outputs & {*node.output}]
    if len(casts) != len(border) or len(casts) not in (0, 1 + len(outputs)):
        broken.append(f"{len(casts)} Cast nodes instead of none, or of one at each border")
    last = outputs | {cast.input[0] for cast in casts if outputs & {*cast.output}}
    for op in ("DequantizeLinear", "QuantizeLinear"):
        last |= {n.input[0] for n in graph.node if n.op_type == op and last & {*n.output}}
    behind = ("Cast", *ROUNDING_OPS)
    producers = [node.op_type for node in graph.node if last & {*node.output}]
    if interface.has_classes and [op for op in producers if op not in behind] != ["Gemm"]:
        broken.append(f"{OUTPUT_NAME} comes from {producers}, not from one Gemm")
    if not interface.has_classes and any(node.name.startswith("head") for node in graph.node):
        broken.append("a head, and no logits")
    rounded = counts.keys() & set(ROUNDING_OPS)
    types = {weight.data_type for weight in graph.initializer if not _is_end(weight)}
    types -= {onnx.TensorProto.INT64}
    allowed = {onnx.TensorProto.FLOAT16 if casts else onnx.TensorProto.FLOAT}
    if (types - INT8_TYPES if rounded else types) != allowed:
        names = sorted(onnx.TensorProto.DataType.Name(type) for type in types)
        broken.append(f"weights in {', '.join(names)} beside {len(casts)} Cast nodes")
    domains = {node.domain for node in graph.node} | {used.domain for used in model.opset_import}
    if domains - set(STANDARD_DOMAINS):
        broken.append(f"operators outside the standard set: {sorted(domains)}")
    if any(weight.data_location == onnx.TensorProto.EXTERNAL for weight in graph.initializer):
        broken.append("weights outside the file")

    inside = [node for node in graph.node if not _is_end(node)]
    names = [node.name for node in inside]
    names += [name for node in inside for name in node.output if name not in outputs]
    modules = (*MODULE_NAMES, *(f"{INPUT_NAME}_{op}" for op in rounded))
    if foreign := [name for name in names if not name.startswith(modules)]:
        broken.append(f"names that no block of the checkpoint has: {', '.join(foreign[:4])}")
    for value in (*graph.input, *graph.output):
        first, *rest = value.type.tensor_type.shape.dim
        if any(not dim.HasField("dim_value") for dim in rest):
            broken.append(f"{value.name} is dynamic in more than its batch")
        if not (first.HasField("dim_value") or first.dim_param == "batch"):
            broken.append(f"the batch of {value.name} is neither fixed nor named")
    if [value.name for value in (*graph.input, *graph.output)] != ends:
        broken.append(f"other inputs or outputs than {' and '.join(ends)}")
    return broken


_ENDS = (PIXELS, INPUT_NAME, PROBABILITIES)  # around the network


def _is_end(part: onnx.NodeProto | onnx.TensorProto) -> bool:
    """Whether a node or a weight is named as one that normalises bytes, or as the softmax."""
    return part.name in _ENDS or part.name.startswith(f"{PIXELS}.")


def _broken_ends(graph: onnx.GraphProto, interface: Interface) -> list[str]:
    """The broken clause about the normalisation and the softmax, if any."""
    is_int8 = any(node.op_type in ROUNDING_OPS for node in graph.node)
    on_bytes, on_floats = ["Reshape", "Add", "Reshape", "Transpose"], ["Transpose", "Cast", "Sub"]
    expected = (on_bytes if is_int8 else [*on_floats, "Mul"]) if interface.input == "uint8" else []
    expected += ["Softmax"] if interface.output == "probabilities" else []
    around = [node.op_type for node in graph.node if _is_end(node)]
    found = [op for op in around if op not in ROUNDING_OPS]
    if found == expected:
        return []
    return [f"{found} around the network instead of {expected}"]
