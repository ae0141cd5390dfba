"""A model for NVIDIA's Triton Inference Server: an artifact and its configuration.

Sources: Triton's documentation of model repositories and of model configurations, which has the
names that its PyTorch backend expects; its schema, ``model_config.proto``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.errors import UsageError
from levit_deploy.provenance import TOOL
from levit_deploy.publish.folder import refuse_bad_folder, staged_folder
from levit_deploy.targets.formats import TARGETS, target_named
from levit_deploy.targets.target import Target, TritonBackend

if TYPE_CHECKING:  # it imports torch, and a look at the paths does not wait for that
    from levit_deploy.targets.plan import Plan

OPTION = "--triton"
CONFIG, LABELS, VERSION = "config.pbtxt", "labels.txt", "1"
MOST_AT_ONCE = 16  # images in a batch; the proof runs one more
TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
FORMATS = {"float32": "FORMAT_NCHW", "uint8": "FORMAT_NHWC"}


@dataclass(frozen=True)
class TritonModel:
    """Where an artifact goes: the folder ``name`` in the folder ``repository``, which exists."""

    repository: Path
    name: str

    @property
    def folder(self) -> Path:
        """The model's folder, by Triton's rules."""
        return self.repository / self.name

    def file(self, format: str) -> Path:
        """The artifact in it: the first version."""
        return self.folder / VERSION / backend_of(target_named(format)).file


def refuse_bad_model(model: TritonModel, force: bool) -> None:
    """Raise OutputError if ``staged_model`` could not, or must not, write."""
    refuse_bad_folder(model.folder, _is_model, force, OPTION)


def backend_of(target: Target) -> TritonBackend:
    """Return the backend that serves a target; raise UsageError if Triton has none."""
    if target.triton is None:
        usual = TARGETS.get(target.name, target)
        if usual.triton is not None:
            raise UsageError(
                f"--triton serves --format {target.name} by {usual.runtime}, and --runtime "
                f"{target.runtime} was given. Leave one of them out."
            )
        served = [name for name, other in TARGETS.items() if other.triton is not None]
        raise UsageError(
            f"Triton has no backend for --format {target.name}. Choose --format "
            f"{' or '.join(served)}, or name a file with -o."
        )
    return target.triton


@contextmanager
def staged_model(model: TritonModel, plan: Plan, *, force: bool) -> Iterator[Path]:
    """Yield a path for the artifact; when the block succeeds, the model appears as a whole.

    The configuration and the labels are written once the artifact is proven. Raises UsageError if
    Triton has no backend for the target, and OutputError as ``staged_folder`` does.
    """
    backend = backend_of(plan.target)
    with staged_folder(model.folder, is_ours=_is_model, force=force, option=OPTION) as temporary:
        (temporary / VERSION).mkdir()
        artifact = temporary / VERSION / backend.file
        yield artifact
        labels = _labels(plan)
        if labels:
            (temporary / LABELS).write_text("".join(f"{x}\n" for x in labels), encoding="utf-8")
        sha256 = hashlib.sha256(artifact.read_bytes()).hexdigest()
        (temporary / CONFIG).write_text(_config(plan, backend, sha256))


def _labels(plan: Plan) -> tuple[str, ...]:
    """The labels; none if the batch is fixed: Triton would take its images for more classes."""
    return plan.provenance.labels if plan.options.fixed_batch in (None, 1) else ()


def _config(plan: Plan, backend: TritonBackend, sha256: str) -> str:
    """The configuration in protobuf's text format; it has no name, so that the folder's counts."""
    interface, config, batch = plan.interface, plan.checkpoint.config, plan.options.fixed_batch
    shape, outputs = interface.image_shape(config), interface.outputs(config)
    name = plan.options.input_name or interface.input_name
    if plan.options.output_name is not None:  # there is one output then
        outputs = {plan.options.output_name: next(iter(outputs.values()))}
    if backend.by_place:
        name = "INPUT__0"
        outputs = {f"OUTPUT__{i}": sides for i, sides in enumerate(outputs.values())}
    fixed = []
    if batch is None:
        batching = [f"max_batch_size: {MOST_AT_ONCE}", "dynamic_batching { }"]
        form = [f"    format: {FORMATS[interface.input]}"]
    else:  # Triton adds no batch of its own then, and knows no format with one
        batching, form = ["max_batch_size: 0"], []
        fixed = [batch]
    labels = [f'    label_filename: "{LABELS}"'] if _labels(plan) else []
    lines = [
        f"# {plan.provenance.to_metadata()['tool']}, {plan.target.name}, SHA-256 {sha256}",
        f'platform: "{backend.platform}"',
        *batching,
        "input [",
        "  {",
        f'    name: "{name}"',
        f"    data_type: {TYPES[interface.input]}",
        *form,
        f"    dims: {[*fixed, *shape]}",
        "  }",
        "]",
        "output [",
        ",\n".join(
            "\n".join(_output(name, [*fixed, *sides], labels)) for name, sides in outputs.items()
        ),
        "]",
    ]
    return "\n".join(lines) + "\n"


def _output(name: str, dims: list[int], labels: list[str]) -> list[str]:
    """The lines of one output."""
    lines = [f'    name: "{name}"', "    data_type: TYPE_FP32", f"    dims: {dims}", *labels]
    return ["  {", *lines, "  }"]


def _is_model(folder: Path) -> bool:
    """Whether a folder holds the files of an export, and nothing else."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    backends = [target.triton for target in TARGETS.values() if target.triton is not None]
    files = {f"{VERSION}/{backend.file}" for backend in backends}
    if not files & names or not names <= {CONFIG, LABELS, VERSION, *files}:
        return False
    with suppress(OSError, ValueError):  # no text, or none that can be read
        return (folder / CONFIG).read_text().startswith(f"# {TOOL} ")
    return False
