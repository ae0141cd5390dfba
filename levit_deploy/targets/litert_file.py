"""Read a LiteRT file: its graph as the schema's objects, and the provenance in its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from levit_deploy.errors import ArtifactError
from levit_deploy.provenance import TOOL, is_ours

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
