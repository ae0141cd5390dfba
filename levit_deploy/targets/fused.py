"""Plain layers in safetensors, run by this package: the file of ``levit-deploy fuse``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.errors import ArtifactError, CheckpointError, UsageError
from levit_deploy.interface import DEFAULT, Interface
from levit_deploy.targets.target import ExportOptions, Target

if TYPE_CHECKING:
    import torch

    from levit_deploy.arrays import Images
    from levit_deploy.model import LeViT
    from levit_deploy.provenance import Provenance
    from levit_deploy.runtime.artifact import Artifact


def _serialize(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    from levit_deploy.checkpoint import fused

    if options.interface() not in (DEFAULT, Interface(output="features")):
        raise UsageError(
            f"fuse writes networks of float32 images, and not of {options.input} to "
            f"{options.output}. Export to another format for that."
        )
    return fused.serialize(model, provenance)


def _difference(data: bytes, least: bytes, most: bytes) -> str:
    from safetensors.torch import load as read

    from levit_deploy.targets.same_numbers import difference_of_tensors

    return difference_of_tensors(
        *(
            {name: tensor.numpy() for name, tensor in read(each).items()}
            for each in (data, least, most)
        )
    )


def load(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Build the network of a fused file; raise ArtifactError if it is none.

    torch has one number of threads for the whole process.
    """
    from levit_deploy.checkpoint import fused
    from levit_deploy.checkpoint.files import read_file
    from levit_deploy.provenance import is_ours
    from levit_deploy.targets.torch_module import torch_artifact

    try:
        file = read_file(path)
        if not is_ours(file.metadata):
            raise ArtifactError(
                f"{path} is a safetensors file, but not one that levit-deploy fuse wrote. Expected "
                "an artifact that levit-deploy wrote. If it is a checkpoint, export it first: "
                f"levit-deploy export {path}."
            )
        model, provenance = fused.restore(file.contents, file.metadata, path)
    except CheckpointError as error:
        raise ArtifactError(str(error)) from error
    return torch_artifact(
        model,
        provenance.config,
        module_values,
        path=path,
        format="fused",
        runtime="torch",
        sha256=file.sha256,
        metadata=file.metadata,
    )


def module_values(module: torch.nn.Module, images: Images) -> Iterable[torch.Tensor]:
    """Give the output of every module within a module."""
    import torch

    values: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _given: object, value: torch.Tensor) -> None:
        values.append(value)

    hooks = [part.register_forward_hook(keep) for part in module.modules()]
    try:
        with torch.inference_mode():
            module(torch.from_numpy(images))
    finally:
        for hook in hooks:
            hook.remove()
    return values


FUSED = Target(
    name="fused",
    suffix=".fused.safetensors",
    runtime="torch",
    precisions=("fp32",),
    forms=(),  # as fast as eager torch
    auto_layout=lambda _precision, _options: "tokens",
    serialize=_serialize,
    difference=_difference,
    check_file=lambda _path: {},
    recognises=lambda start: start[8:9] == b"{",  # a length in 8 bytes, then JSON
    load=load,
    runtime_modules=(),
    isolated=False,  # numbers, which only code of ours runs
)
