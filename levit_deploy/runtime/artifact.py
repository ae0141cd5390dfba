"""One interface to every artifact: a callable from images to logits, or to probabilities."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import (
    ArtifactError,
    BackendError,
    CheckpointError,
    first_line,
    is_out_of_memory,
)
from levit_deploy.interface import Interface
from levit_deploy.provenance import Provenance, is_ours
from levit_deploy.regular_files import read_regular
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.runtime.values import module_values, onnx_values, torchscript_values

if TYPE_CHECKING:
    import torch

    Module = TypeVar("Module", bound=torch.nn.Module)

STANDARD_DOMAINS = ("", "ai.onnx")
PROVENANCE_FILE = "provenance.json"  # in a TorchScript archive


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact.

    ``run`` maps images, float32 (batch, channels, height, width) or uint8 (batch, height, width,
    channels), to float32 (batch, classes); ``interface`` says which, and what they mean.
    ``batch_size`` is None where the batch is dynamic, ``image_shape`` is that of one image.
    ``metadata`` is what the file says of itself. ``values`` gives every value computed on the way,
    unnamed, each with the batch as its outer dimension.
    """

    path: Path
    format: str
    sha256: str
    metadata: dict[str, str]
    batch_size: int | None
    image_shape: tuple[int, ...]
    run: Callable[[Images], FloatArray]
    values: Callable[[Images], Iterable[FloatArray]]

    @property
    def interface(self) -> Interface:
        """What it takes and gives, as its metadata say; loading it has compared them."""
        return Interface.from_metadata(self.metadata)


def load_artifact(path: Path, threads: int | None = None, *, literal: bool = False) -> Artifact:
    """Load an ONNX, TorchScript or fused file, recognised by its contents.

    ``threads`` limits onnxruntime; torch has one setting for the whole process. ``literal`` has
    onnxruntime compute what an ONNX file says, node by node. Raises ArtifactError where the file is
    none of them or has another interface.
    """
    try:
        data = read_regular(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    if data.startswith(b"PK\x03\x04"):
        return _torchscript(path, data)
    if data[8:9] == b"{":
        return _fused(path)
    return _onnx(path, data, threads, literal)


def _onnx(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    _refuse_what_reaches_out(path, data)
    try:
        session = onnx_session(data, threads, literal=literal)
    except Exception as error:  # onnxruntime's exceptions share no base class
        if is_out_of_memory(error):
            raise
        raise ArtifactError(
            f"{path} cannot be loaded by onnxruntime: {first_line(error)}. Expected an ONNX, "
            "TorchScript or fused file that levit-deploy wrote."
        ) from error

    metadata = session.get_modelmeta().custom_metadata_map
    interface = _interface(path, metadata)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = [(value.name, value.type) for value in (*inputs, *outputs)]
    names = [interface.input_name, interface.output]
    types = ["tensor(uint8)" if interface.input == "uint8" else "tensor(float)", "tensor(float)"]
    if found != list(zip(names, types, strict=True)):
        raise ArtifactError(
            f"{path} has the inputs and outputs {found}. Expected {names[0]} and {names[1]}, "
            f"{interface.input} and float32."
        )
    batch, *image_shape = inputs[0].shape
    if len(image_shape) != 3 or not all(isinstance(size, int) for size in image_shape):
        raise ArtifactError(
            f"{path} takes {names[0]} of shape {inputs[0].shape}. Expected the batch and three "
            "fixed sizes, of channels, height and width, as a LeViT has one image size."
        )

    def run(images: Images) -> FloatArray:
        try:
            (answers,) = session.run([names[1]], {names[0]: images})
        except Exception as error:
            raise BackendError(
                f"onnxruntime failed to run {path} on a batch of shape {images.shape}: "
                f"{first_line(error)}."
            ) from error
        return np.asarray(answers)

    batch_size = batch if isinstance(batch, int) else None
    sha256 = hashlib.sha256(data).hexdigest()
    return Artifact(
        path,
        "onnx",
        sha256,
        metadata,
        batch_size,
        tuple(image_shape),
        run,
        values=lambda images: onnx_values(read_regular(path), images),
    )


def _interface(path: Path, metadata: dict[str, str]) -> Interface:
    try:
        return Interface.from_metadata(metadata)
    except ValueError as error:
        raise ArtifactError(
            f"{path} says in its metadata what is not known: {error}. A later version of this tool "
            "may have written it. Upgrade, or export it again."
        ) from error


def _refuse_what_reaches_out(path: Path, data: bytes) -> None:
    """Raise ArtifactError for a model that needs other files, or operators of other libraries."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own
        raise ArtifactError(
            f"{path} is no ONNX file: {first_line(error)}. Expected an ONNX, TorchScript or fused "
            "file that levit-deploy wrote."
        ) from error
    graphs, found = [model.graph], set()
    while graphs:
        graph = graphs.pop()
        tensors = [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]
        for node in graph.node:
            if node.domain not in STANDARD_DOMAINS:
                found.add(f"the operator {node.domain}.{node.op_type}")
            for attribute in node.attribute:
                graphs += [attribute.g, *attribute.graphs]
                tensors += [attribute.t, *attribute.tensors]
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
            found.add("weights in another file")
    if model.functions:
        found.add("functions of its own")
    if found:
        raise ArtifactError(
            f"{path} needs {', '.join(sorted(found))}. Expected standard operators, and everything "
            "in the one file, as levit-deploy writes it."
        )


def _torchscript(path: Path, data: bytes) -> Artifact:
    import torch

    extra = {PROVENANCE_FILE: ""}
    try:
        with deprecation_accepted():
            program = torch.jit.load(io.BytesIO(data), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be loaded as TorchScript: {first_line(error)}. Expected an ONNX, "
            "TorchScript or fused file that levit-deploy wrote."
        ) from error
    try:
        metadata = json.loads(extra[PROVENANCE_FILE])
        config = Provenance.from_metadata(metadata).config
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is a TorchScript program whose provenance is missing or damaged "
            f"({type(error).__name__}: {error}). Expected one that levit-deploy wrote. Export it "
            "again."
        ) from error
    sha256 = hashlib.sha256(data).hexdigest()
    return _torch_artifact(
        path, "torchscript", sha256, metadata, config, program, torchscript_values
    )


def _fused(path: Path) -> Artifact:
    from levit_deploy.checkpoint import fused
    from levit_deploy.checkpoint.files import read_file

    try:
        file = read_file(path)
        if not is_ours(file.metadata):
            raise ArtifactError(
                f"{path} is a safetensors file, but not one that levit-deploy fuse wrote. Expected "
                "an ONNX, TorchScript or fused file."
            )
        model, provenance = fused.restore(file.contents, file.metadata, path)
    except CheckpointError as error:
        raise ArtifactError(str(error)) from error
    return _torch_artifact(
        path, "fused", file.sha256, file.metadata, provenance.config, model, module_values
    )


def _torch_artifact(
    path: Path,
    format: str,
    sha256: str,
    metadata: dict[str, str],
    config: LeViTConfig,
    module: Module,
    values: Callable[[Module, Images], Iterable[FloatArray]],
) -> Artifact:
    import torch

    interface = _interface(path, metadata)
    expected = interface.image_shape(config)

    def run(images: Images) -> FloatArray:
        # torch itself would run a turned image: it has as many tokens, and the wrong biases
        if images.shape[1:] != expected or images.dtype != interface.input:
            raise BackendError(
                f"{path} was given a batch of shape {images.shape} in {images.dtype}. Expected "
                f"{expected} behind the batch, in {interface.input}."
            )
        try:
            with torch.inference_mode():
                answers = module(torch.from_numpy(images))
        except RuntimeError as error:
            raise BackendError(
                f"torch failed to run {path} on a batch of shape {images.shape}: "
                f"{first_line(error)}."
            ) from error
        if not isinstance(answers, torch.Tensor) or answers.dtype != torch.float32:
            kind = getattr(answers, "dtype", type(answers).__name__)
            raise ArtifactError(
                f"{path} gives a {kind}. Expected one float32 tensor of {interface.output}."
            )
        return np.asarray(answers.numpy())

    return Artifact(
        path,
        format,
        sha256,
        metadata,
        None,
        expected,
        run,
        values=lambda images: values(module, images),
    )


@contextmanager
def deprecation_accepted() -> Iterator[None]:
    """Silence torch's advice to leave TorchScript: the user asked for it by name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        yield
