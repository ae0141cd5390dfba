"""Read a LiteRT file: its graph as the schema's objects, and the provenance in its metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from levit_deploy.errors import ArtifactError
from levit_deploy.provenance import TOOL, is_ours
from levit_deploy.targets.litert_graph import NUMPY_TYPES

KINDS = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


def read_model(path: Path, data: bytes) -> Any:
    """Return a file as the schema's ``ModelT``; raise ArtifactError if it is damaged."""
    try:
        return schema.ModelT.InitFromPackedBuf(data)
    except Exception as error:  # the generated code checks nothing
        raise ArtifactError(
            f"{path} is a damaged LiteRT file ({type(error).__name__}). Expected an artifact that "
            "levit-deploy wrote. Export it again."
        ) from error


def kinds(model: Any) -> list[str]:
    """The name of each operator in the order of their run, such as 'CONV_2D'."""
    codes = [
        max(code.deprecatedBuiltinCode, code.builtinCode) for code in model.operatorCodes or []
    ]
    return [KINDS[codes[operator.opcodeIndex]] for operator in model.subgraphs[0].operators]


def metadata_of(path: Path, model: Any) -> dict[str, str]:
    """Return the provenance in a file; raise ArtifactError if it has none of ours."""
    for entry in model.metadata or []:
        if entry.name == TOOL.encode():
            try:
                found = json.loads(bytes(model.buffers[entry.buffer].data))
            except (ValueError, TypeError, IndexError, RecursionError) as error:
                raise ArtifactError(
                    f"{path} is a LiteRT file with damaged provenance ({type(error).__name__}: "
                    f"{error}). Expected one that levit-deploy wrote. Export it again."
                ) from error
            strings = isinstance(found, dict) and all(isinstance(v, str) for v in found.values())
            if strings and is_ours(found):
                return dict(found)
    raise ArtifactError(
        f"{path} is a LiteRT file without the metadata of levit-deploy. Nothing in it tells "
        "whether its channels come first or last, and how its pictures are prepared. Export the "
        "checkpoint again: levit-deploy export CHECKPOINT --format litert."
    )


def facts(model: Any) -> Iterator[tuple[str, object]]:
    """Yield everything about a file but names, metadata and the numbers of its constants."""
    (graph,) = model.subgraphs
    yield "the input", list(graph.inputs)
    yield "the output", list(graph.outputs)
    yield "the tables", (model.version, _plain(model.externalBuffers), len(model.signatureDefs))
    for signature in model.signatureDefs:
        for kind in ("inputs", "outputs"):
            places = [value.tensorIndex for value in getattr(signature, kind)]
            yield f"the signature's {kind}", places
    for i, (kind, operator) in enumerate(zip(kinds(model), graph.operators, strict=True)):
        code = model.operatorCodes[operator.opcodeIndex]
        settings = {k: v for k, v in vars(operator).items() if k != "opcodeIndex"}
        yield f"operator {i}", (kind, code.version, code.customCode, _plain(settings))
    for i, tensor in enumerate(graph.tensors):
        settings = {k: v for k, v in vars(tensor).items() if k not in ("name", "buffer")}
        quantization = settings.pop("quantization")
        if quantization is not None:  # the scales are compared as numbers
            quantization = {k: v for k, v in vars(quantization).items() if k != "scale"}
        yield f"tensor {i}", (_plain(settings), _plain(quantization))


def _plain(value: Any) -> Any:
    """The schema's objects, and numpy's, as those of Python, which compare by their content."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return _plain(vars(value)) if hasattr(value, "__dict__") else value


def numbers_of(model: Any, tensor: Any) -> npt.NDArray[Any] | None:
    """Return the numbers of a constant; None for a tensor that is computed."""
    content = model.buffers[tensor.buffer].data
    if content is None or not len(content):
        return None
    numbers: npt.NDArray[Any] = np.frombuffer(content.tobytes(), NUMPY_TYPES[tensor.type])
    return numbers.reshape(tensor.shape)


def name_of(tensor: Any) -> str:
    """Return the name of a tensor."""
    return str(tensor.name.decode(errors="replace"))
