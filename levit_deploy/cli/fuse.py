"""``levit-deploy fuse``: write plain layers."""

from __future__ import annotations

from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.inputs import beside, check_paths, read
from levit_deploy.cli.options import (
    ActivationOption,
    CheckpointArgument,
    ForceOption,
    HeadOption,
    ImageSizeOption,
    ImagesOption,
    JsonOption,
    LabelsOption,
    OutputOption,
    PreprocessingOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
)
from levit_deploy.cli.outputs import evidence_of_failure, report_published
from levit_deploy.cli.status import status


@reports_errors
def fuse(
    checkpoint: CheckpointArgument,
    output: OutputOption = None,
    head: HeadOption = "mean",
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    preprocessing: PreprocessingOption = None,
    labels: LabelsOption = None,
    images: ImagesOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write the network in plain layers, as safetensors, proven against the original.

    Every other command takes the result back as a CHECKPOINT.

    Example: levit-deploy fuse ckpt.pth -o ckpt.fused.safetensors
    """
    output = output or beside(checkpoint, ".fused.safetensors")
    check_paths(
        checkpoint,
        labels=labels,
        images=images,
        output=output,
        json_file=json_file,
        force=force,
    )
    loaded = read(checkpoint, activation, image_size, weights, preprocessing, labels, quiet=quiet)
    from levit_deploy import pipeline

    with (
        evidence_of_failure(loaded, output, json_file, quiet, force),
        status(f"writing and proving {output}", quiet=quiet),
    ):
        published = pipeline.fuse(loaded, output, head=head, force=force, images=images)
    report_published(published, loaded, json_file, quiet, force)
