"""A model for NVIDIA's Triton Inference Server: an artifact, and what the server must know of it.

Sources: Triton's documentation of model repositories and of model configurations, which has the
names that its PyTorch backend expects; its schema, ``model_config.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.provenance import TOOL, Provenance
from levit_deploy.publish.folder import refuse_bad_folder, staged_folder

if TYPE_CHECKING:  # which imports onnxruntime, for which a look at the paths does not wait
    from levit_deploy.runtime.artifact import Artifact

OPTION = "--triton"
CONFIG, LABELS, VERSION = "config.pbtxt", "labels.txt", "1"
FILES = {"onnx": "model.onnx", "torchscript": "model.pt"}  # the names that the backends look for
PLATFORMS = {"onnx": "onnxruntime_onnx", "torchscript": "pytorch_libtorch"}
TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
FORMATS = {"float32": "FORMAT_NCHW", "uint8": "FORMAT_NHWC"}


@dataclass(frozen=True)
class TritonModel:
    """Where an artifact goes: the folder ``name`` in the folder ``repository``, which exists."""

    repository: Path
    name: str

    @property
    def folder(self) -> Path:
        """What Triton takes for the model."""
        return self.repository / self.name

    def file(self, format: str) -> Path:
        """The artifact in it: the first version."""
        return self.folder / VERSION / FILES[format]


def refuse_bad_model(model: TritonModel, force: bool) -> None:
    """Raise OutputError where ``staged_model`` could not, or must not, write."""
    refuse_bad_folder(model.folder, _is_model, force, OPTION)


@contextmanager
def staged_model(model: TritonModel, format: str, *, force: bool) -> Iterator[Path]:
    """Yield where to write the artifact; when the block succeeds, the model appears as a whole.

    The block writes the rest with ``write_config``. Raises OutputError as ``staged_folder`` does.
    """
    with staged_folder(model.folder, is_ours=_is_model, force=force, option=OPTION) as temporary:
        (temporary / VERSION).mkdir()
        yield temporary / VERSION / FILES[format]


def write_config(artifact: Artifact) -> None:
    """Write the configuration and the labels of an artifact that is where ``staged_model`` says."""
    folder = artifact.path.parent.parent
    provenance = Provenance.from_metadata(artifact.metadata)
    # none where the batch is fixed: Triton would take its images for one with more classes
    labels = provenance.labels if artifact.batch_size in (None, 1) else ()
    if labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    (folder / CONFIG).write_text(_config(artifact, provenance, bool(labels)))


def _config(artifact: Artifact, provenance: Provenance, labels: bool) -> str:
    """The configuration in protobuf's text format; it has no name, so that the folder's counts."""
    from levit_deploy.verification.batches import BATCH_SIZES

    interface = provenance.interface
    names: tuple[str, str] = (interface.input_name, interface.output)
    if artifact.format == "torchscript":  # whose values have no names, only places
        names = ("INPUT__0", "OUTPUT__0")
    shape, classes = [*artifact.image_shape], [provenance.config.num_classes]
    if artifact.batch_size is None:
        batching = [f"max_batch_size: {max(BATCH_SIZES)}", "dynamic_batching { }"]
        form = [f"    format: {FORMATS[interface.input]}"]
    else:  # Triton adds no batch of its own then, and knows no format with one
        batching, form = ["max_batch_size: 0"], []
        shape, classes = [artifact.batch_size, *shape], [artifact.batch_size, *classes]
    lines = [
        f"# {artifact.metadata['tool']}, {artifact.format}, SHA-256 {artifact.sha256}",
        f'platform: "{PLATFORMS[artifact.format]}"',
        *batching,
        "input [",
        "  {",
        f'    name: "{names[0]}"',
        f"    data_type: {TYPES[interface.input]}",
        *form,
        f"    dims: {shape}",
        "  }",
        "]",
        "output [",
        "  {",
        f'    name: "{names[1]}"',
        "    data_type: TYPE_FP32",
        f"    dims: {classes}",
        *([f'    label_filename: "{LABELS}"'] if labels else []),
        "  }",
        "]",
    ]
    return "\n".join(lines) + "\n"


def _is_model(folder: Path) -> bool:
    """Whether a folder holds what an export wrote there, and nothing else."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    files = {f"{VERSION}/{name}" for name in FILES.values()}
    if not files & names or not names <= {CONFIG, LABELS, VERSION, *files}:
        return False
    with suppress(OSError, ValueError):  # no text, or none that can be read
        return (folder / CONFIG).read_text().startswith(f"# {TOOL} ")
    return False
