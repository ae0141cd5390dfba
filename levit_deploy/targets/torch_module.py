"""An artifact that torch runs: a module, and the checks that torch leaves out."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import ArtifactError, BackendError, first_line
from levit_deploy.provenance import Provenance
from levit_deploy.runtime.artifact import Artifact, answers, claimed_interface, claimed_maps

Module = TypeVar("Module", bound=torch.nn.Module)


def claimed_metadata(path: Path, text: str, kind: str) -> tuple[dict[str, str], LeViTConfig]:
    """Return the metadata in the text of an extra file, and the architecture in them.

    Raises ArtifactError, which calls the file a ``kind``, if they are not of ours.
    """
    try:
        metadata = json.loads(text)
        return metadata, Provenance.from_metadata(metadata).config
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is a {kind} with missing or damaged provenance "
            f"({type(error).__name__}: {error}). Expected one that levit-deploy wrote. Export it "
            "again."
        ) from error


def torch_artifact(
    module: Module,
    config: LeViTConfig,
    values: Callable[[Module, Images], Iterable[torch.Tensor]],
    *,
    path: Path,
    format: str,
    runtime: str,
    sha256: str,
    metadata: dict[str, str],
) -> Artifact:
    """Make an artifact of a module with a free batch.

    ``values`` gives every tensor that the module computes of some images.
    """
    interface = claimed_interface(path, metadata)
    expected, maps = interface.image_shape(config), claimed_maps(path, metadata)

    def run(images: Images) -> FloatArray:
        # torch itself would run a turned image: it has as many tokens, and the wrong biases
        if images.shape[1:] != expected or images.dtype != interface.input:
            raise BackendError(
                f"{path} was given a batch of shape {images.shape} in {images.dtype}. Expected "
                f"{expected} behind the batch, in {interface.input}."
            )
        try:
            with torch.inference_mode():
                given = module(torch.from_numpy(images))
        except RuntimeError as error:
            raise BackendError(
                f"torch failed to run {path} on a batch of shape {images.shape}: "
                f"{first_line(error)}."
            ) from error
        outputs = given if maps and isinstance(given, tuple) else (given,)
        for output in outputs:
            if not isinstance(output, torch.Tensor) or output.dtype != torch.float32:
                kind = getattr(output, "dtype", type(output).__name__)
                expectation = "float32 tensors" if maps else "one float32 tensor"
                raise ArtifactError(
                    f"{path} gives a {kind}. Expected {expectation} of {interface.output}."
                )
        return answers(path, [output.numpy() for output in outputs], maps)

    def floats(images: Images) -> Iterator[FloatArray]:
        for value in values(module, images):
            if value.is_floating_point():
                yield value.float().numpy()  # numpy knows no bfloat16

    return Artifact(
        path=path,
        format=format,
        runtime=runtime,
        sha256=sha256,
        metadata=metadata,
        batch_size=None,
        image_shape=expected,
        run=run,
        values=floats,
    )
