"""TorchScript, run by torch: for programs that load it already.

It is deprecated since PyTorch 2.11. Its successor is torch.export, whose target is ``pt2``, and
docs/runtimes.md says when to move.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.errors import ArtifactError, first_line
from levit_deploy.targets.target import ExportOptions, Form, Target, TritonBackend

if TYPE_CHECKING:
    import torch

    from levit_deploy.arrays import Images
    from levit_deploy.model import LeViT
    from levit_deploy.provenance import Provenance
    from levit_deploy.runtime.artifact import Artifact


def _serialize(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    from levit_deploy.targets.torchscript_writer import to_torchscript

    return to_torchscript(model, provenance)


def _difference(data: bytes, least: bytes, most: bytes) -> str:
    from levit_deploy.targets.torch_same import difference

    return difference(data, least, most)


def load(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Open a TorchScript program of ours; raise ArtifactError if it is none.

    torch has one number of threads for the whole process, and runs every program literally.
    """
    import torch

    from levit_deploy.targets.torch_archive import PROVENANCE_FILE
    from levit_deploy.targets.torch_module import claimed_metadata, torch_artifact
    from levit_deploy.targets.torchscript_writer import deprecation_accepted

    extra = {PROVENANCE_FILE: ""}
    try:
        with deprecation_accepted():
            program = torch.jit.load(io.BytesIO(data), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be loaded as TorchScript: {first_line(error)}. Expected an artifact "
            "that levit-deploy wrote."
        ) from error
    metadata, config = claimed_metadata(path, extra[PROVENANCE_FILE], "TorchScript program")
    return torch_artifact(
        program,
        config,
        torchscript_values,
        path=path,
        format="torchscript",
        runtime="TorchScript",
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
    )


def torchscript_values(program: torch.jit.ScriptModule, images: Images) -> Iterable[torch.Tensor]:
    """Give the result of every operation, by returning it from the graph."""
    import torch

    graph = program.graph.copy()
    torch._C._jit_pass_inline(graph)
    for node in list(graph.nodes()):
        for value in node.outputs():
            if value.type().kind() == "TensorType":
                graph.registerOutput(value)
    arguments = (program._c, torch.from_numpy(images))
    with torch.inference_mode():
        values = torch._C._jit_interpret_graph(graph, arguments)  # type: ignore[attr-defined]
    return (value for value in values if isinstance(value, torch.Tensor))  # not the maps' tuple


TORCHSCRIPT = Target(
    name="torchscript",
    suffix=".torchscript.pt",
    runtime="TorchScript",
    precisions=("fp32", "bf16"),
    forms=(Form("tokens", "tokens"), Form("spatial", "spatial"), Form("bf16", "tokens", "bf16")),
    auto_layout=lambda _precision, _options: "tokens",
    serialize=_serialize,
    libraries=("torch",),
    difference=_difference,
    check_file=lambda _path: {},
    recognises=lambda start: start.startswith(b"PK\x03\x04"),  # a zip archive
    load=load,
    runtime_modules=("torch",),
    note="TorchScript is deprecated since PyTorch 2.11; its successor is --format pt2",
    triton=TritonBackend("pytorch_libtorch", "model.pt", by_place=True),
)
