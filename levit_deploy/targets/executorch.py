"""ExecuTorch, for phones and small machines: a program of torch's that XNNPACK runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levit_deploy.errors import ArtifactError, BackendError, first_line
from levit_deploy.extras import require_extra
from levit_deploy.targets.target import ExportOptions, Form, Int8Standard, Target

if TYPE_CHECKING:
    from levit_deploy.arrays import FloatArray, Images
    from levit_deploy.model import LeViT
    from levit_deploy.provenance import Provenance
    from levit_deploy.runtime.artifact import Artifact

BATCH_SIZE = 1
FLOAT32, UINT8 = 6, 0  # of ScalarType in executorch/runtime/core/portable_type/scalar_type.h


def _serialize(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    _require_executorch()
    from levit_deploy.targets.executorch_writer import to_executorch

    return to_executorch(model, provenance, options.fixed_batch or BATCH_SIZE)


def _require_executorch() -> None:
    require_extra("executorch", ("executorch",), "The format executorch")


def _rounded(
    model: LeViT, provenance: Provenance, options: ExportOptions, images: Images
) -> Callable[[Provenance], bytes]:
    _require_executorch()
    from levit_deploy.targets.executorch_int8 import rounded

    write = rounded(model, provenance, options.fixed_batch or BATCH_SIZE, images)
    return lambda later: write(later.to_metadata())


def _standard(
    model: LeViT, provenance: Provenance, options: ExportOptions, path: Path, data: bytes
) -> Int8Standard:
    from levit_deploy.targets.executorch_int8 import int8_standard

    return int8_standard(model, provenance, options.fixed_batch or BATCH_SIZE, path, data)


def _check_file(path: Path) -> dict[str, int]:
    from levit_deploy.targets.executorch_writer import facts

    return facts(path.read_bytes())


def load(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Open an ExecuTorch program of ours; raise ArtifactError if it is none.

    XNNPACK has one number of threads for the whole process. Raises UsageError if ExecuTorch is not
    installed.
    """
    require_extra("executorch", ("executorch",), f"The ExecuTorch program {path}")
    import torch

    # executorch.runtime has the same and takes seconds: it also imports all that writes programs
    from executorch.extension.pybindings import _C

    from levit_deploy.provenance import Provenance
    from levit_deploy.runtime.artifact import Artifact, answers, claimed_interface, claimed_maps
    from levit_deploy.targets.executorch_writer import PROVENANCE

    if threads is not None and threads != _C._threadpool_get_thread_count():
        _C._unsafe_reset_threadpool(threads)
    try:
        program = _C._load_program_from_buffer(data)
        forward = program.load_method("forward")
    except (RuntimeError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{path} cannot be loaded by ExecuTorch: {first_line(error)}. Expected an artifact "
            "that levit-deploy wrote."
        ) from error
    try:
        (text,) = program.load_method(PROVENANCE)(())
        metadata = json.loads(text)
        config = Provenance.from_metadata(metadata).config
    except (RuntimeError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is an ExecuTorch program with missing or damaged provenance "
            f"({type(error).__name__}: {first_line(error)}). Expected one that levit-deploy wrote. "
            "Export it again."
        ) from error
    interface, maps = claimed_interface(path, metadata), claimed_maps(path, metadata)
    meta = forward.method_meta()
    batch, *image_shape = _only_input(path, meta, UINT8 if interface.input == "uint8" else FLOAT32)
    sizes = [(batch, *shape) for shape in interface.outputs(config).values()]
    given = [meta.output_tensor_meta(i) for i in range(meta.num_outputs())]
    if [(output.sizes(), output.dtype()) for output in given] != [(s, FLOAT32) for s in sizes]:
        raise ArtifactError(
            f"{path} gives {', '.join(map(repr, given))}. Expected float32 {interface.output} of "
            f"the shapes {sizes}. Export it again."
        )

    # every run reads the program in these bytes, and ExecuTorch keeps neither
    def run(images: Images, _kept: object = (program, data)) -> FloatArray:
        if images.shape != (batch, *image_shape) or images.dtype != interface.input:
            raise BackendError(
                f"{path} was given a batch of shape {images.shape} in {images.dtype}. Expected "
                f"{(batch, *image_shape)} in {interface.input}."
            )
        taken = torch.from_numpy(images).contiguous()
        try:
            outputs = forward((taken,), clone_outputs=True)
        except RuntimeError as error:
            raise BackendError(f"ExecuTorch failed to run {path}: {first_line(error)}.") from error
        return answers(path, [output.numpy() for output in outputs], maps)

    return Artifact(
        path=path,
        format="executorch",
        runtime="ExecuTorch",
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
        batch_size=batch,
        image_shape=tuple(image_shape),
        run=run,
        values=_no_values,
    )


def _only_input(path: Path, meta: Any, dtype: int) -> tuple[int, ...]:
    """The shape of a program's input; ArtifactError if it has others, or another type."""
    inputs = [meta.input_tensor_meta(i) for i in range(meta.num_inputs())]
    if len(inputs) != 1 or len(inputs[0].sizes()) != 4 or inputs[0].dtype() != dtype:
        raise ArtifactError(
            f"{path} takes {', '.join(map(repr, inputs)) or 'nothing'}. Expected one batch of "
            f"images in {'uint8' if dtype == UINT8 else 'float32'}. Export it again."
        )
    sizes: tuple[int, ...] = inputs[0].sizes()
    return sizes


def _no_values(_images: Images) -> Iterable[FloatArray]:
    """Nothing: XNNPACK shows none of the values within its part of a program."""
    return ()


EXECUTORCH = Target(
    name="executorch",
    suffix=".pte",
    runtime="ExecuTorch",
    precisions=("fp32", "int8", "int8-dynamic"),
    forms=(
        Form("tokens", "tokens"),
        Form("int8", "tokens", "int8"),
        Form("int8-dynamic", "tokens", "int8-dynamic"),
    ),
    auto_layout=lambda _precision, _options: "tokens",
    batch_size=BATCH_SIZE,
    dynamic_batch=False,
    fixes_batch=True,
    layouts=("tokens",),  # XNNPACK would run the other in dozens of pieces
    serialize=_serialize,
    libraries=("executorch", "torchao", "torch"),
    rounded=_rounded,
    standard=_standard,
    check_file=_check_file,
    recognises=lambda start: start[4:8] == b"ET12",  # the file_identifier in schema/program.fbs
    load=load,
    runtime_modules=("torch",),
)
