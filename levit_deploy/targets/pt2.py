"""PT2, the archive of torch.export, run by torch: the successor of TorchScript."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levit_deploy.errors import ArtifactError, first_line
from levit_deploy.targets.processor import require_processor, this_kind
from levit_deploy.targets.target import ExportOptions, Form, Target, first_member

if TYPE_CHECKING:
    import torch

    from levit_deploy.arrays import Images
    from levit_deploy.model import LeViT
    from levit_deploy.provenance import Provenance
    from levit_deploy.runtime.artifact import Artifact

AOTINDUCTOR = "AOTInductor"


def _serialize(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    from levit_deploy.targets.pt2_writer import to_pt2

    if options.compile:
        from levit_deploy.targets.pt2_compile import compiled, require_compiler

        require_compiler()  # before the work
    program = to_pt2(model, provenance)
    return compiled(program, this_kind(), provenance) if options.compile else program


def _difference(data: bytes, least: bytes, most: bytes) -> str:
    from levit_deploy.targets.torch_same import difference

    return difference(data, least, most)


def load(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Open a program of torch.export of ours; raise ArtifactError if it is none.

    torch has one number of threads for the whole process, and runs every program literally.
    """
    from levit_deploy.targets.pt2_compile import opened
    from levit_deploy.targets.pt2_writer import torch_kept_quiet
    from levit_deploy.targets.torch_archive import extra_file
    from levit_deploy.targets.torch_module import claimed_metadata, torch_artifact

    # before the program is opened, which could run code of its own
    metadata, config = claimed_metadata(path, extra_file(data), "program of torch.export")
    processor = metadata.get("processor")
    if processor:
        require_processor(path, processor)
    try:
        with torch_kept_quiet():
            program = opened(path) if processor else _program(data)
    except Exception as error:  # of any kind: a damaged record may break any part of torch's reader
        raise ArtifactError(
            f"{path} cannot be loaded as a program of torch.export: {first_line(error)}. Expected "
            "an artifact that levit-deploy wrote. Export it again."
        ) from error
    return torch_artifact(
        program,
        config,
        nothing_inside if processor else graph_values,
        path=path,
        format="pt2",
        runtime=AOTINDUCTOR if processor else PT2.runtime,
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
    )


def _program(data: bytes) -> torch.nn.Module:
    import torch

    return torch.export.load(io.BytesIO(data)).module()


def nothing_inside(program: torch.nn.Module, images: Images) -> Iterable[torch.Tensor]:
    """Give nothing, as nothing inside native code can be seen."""
    return ()


def graph_values(program: torch.nn.Module, images: Images) -> Iterable[torch.Tensor]:
    """Give the result of every operation of a graph module, by interpreting it."""
    import torch

    values: list[torch.Tensor] = []

    class Keeping(torch.fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            value = super().call_function(target, args, kwargs)
            if isinstance(value, torch.Tensor):
                values.append(value)
            return value

    assert isinstance(program, torch.fx.GraphModule)
    with torch.inference_mode():
        Keeping(program).run(torch.from_numpy(images))
    return values


PT2 = Target(
    name="pt2",
    suffix=".pt2",
    runtime="torch.export",
    precisions=("fp32", "bf16"),
    forms=(Form("tokens", "tokens"), Form("spatial", "spatial"), Form("bf16", "tokens", "bf16")),
    auto_layout=lambda _precision, _options: "tokens",
    serialize=_serialize,
    libraries=("torch",),
    difference=_difference,
    check_file=lambda _path: {},
    recognises=lambda start: first_member(start).startswith(("data/", "models/", "archive_")),
    load=load,
    runtime_modules=("torch", "torch.export"),
)


def compiled_here() -> Target:
    """Return the target of native code for this kind of processor; UsageError if there is none."""
    kind = this_kind()
    return replace(
        PT2,
        suffix=f".{kind.name}{PT2.suffix}",
        runtime=AOTINDUCTOR,
        forms=(),  # a minute each to make
        processor=str(kind),
        note=f"compiled for processors with {', '.join((kind.level, *kind.extra))}, and no others",
    )
