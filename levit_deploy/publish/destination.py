"""Where an artifact goes: a file, a folder that Optimum loads, or a model of Triton's."""

from contextlib import AbstractContextManager
from pathlib import Path

from levit_deploy.errors import UsageError
from levit_deploy.interface import DEFAULT
from levit_deploy.publish.file import staged
from levit_deploy.publish.optimum import MODEL, hub_folder, staged_hub_folder
from levit_deploy.publish.triton import TritonModel, staged_model
from levit_deploy.targets.plan import Plan

Destination = str | Path | TritonModel


def path_of(output: Destination, plan: Plan) -> Path:
    """Return the path that the artifact will have."""
    if isinstance(output, TritonModel):
        return output.file(plan.target.name)
    folder = hub_folder(output)
    return Path(output) if folder is None else folder / MODEL


def staged_output(output: Destination, plan: Plan, *, force: bool) -> AbstractContextManager[Path]:
    """Yield a temporary path for the artifact; give it its name when the block succeeds.

    Raises OutputError if nothing can be written there, and UsageError if this artifact cannot go
    there. Both come before the block if they can be known by then.
    """
    if isinstance(output, TritonModel):
        return staged_model(output, plan, force=force)
    folder = hub_folder(output)
    if folder is not None:
        _require_optimum(plan, folder)
        return staged_hub_folder(folder, plan.checkpoint, force=force)
    return staged(Path(output), sources=plan.checkpoint.files, force=force)


def _require_optimum(plan: Plan, folder: Path) -> None:
    """Raise UsageError for an artifact that Optimum would not load, or not use as we mean it."""
    if plan.target.name != "onnx":
        raise UsageError(
            f"-o names a folder, {folder}, for Optimum. Optimum reads ONNX only. Choose --format "
            "onnx, or name a file with -o."
        )
    if plan.target.runtime != "onnxruntime":
        raise UsageError(
            f"-o names a folder, {folder}, for Optimum. Optimum runs ONNX in onnxruntime, and "
            f"--runtime {plan.target.runtime} was given. Leave it out, or name a file with -o."
        )
    if not plan.interface.has_classes:
        raise UsageError(
            f"-o names a folder, {folder}, for Optimum. Optimum's image classifier expects logits, "
            f"and --output-type {plan.interface.output} was given. Name a file with -o."
        )
    if plan.interface != DEFAULT:
        raise UsageError(
            f"-o names a folder, {folder}, for Optimum. Optimum gives normalised images and "
            "expects logits. Leave --input-type and --output-type out, or name a file with -o."
        )
    names = (DEFAULT.input_name, DEFAULT.output)
    if any(
        name not in (None, usual) for name, usual in zip(plan.options.names, names, strict=True)
    ):
        raise UsageError(
            f"-o names a folder, {folder}, for Optimum. Optimum knows the input as {names[0]} and "
            f"the output as {names[1]}. Leave --input-name and --output-name out, or name a file "
            "with -o."
        )
