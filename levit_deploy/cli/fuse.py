"""``levit-deploy fuse``: write plain layers."""

from __future__ import annotations

from levit_deploy.cli.exits import reports_errors
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
from levit_deploy.cli.paths import Inputs, beside, check_paths
from levit_deploy.cli.reading import Reading
from levit_deploy.cli.reporting import Reporting
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
    """Fuse a checkpoint into plain layers, as safetensors, proven against the original.

    Every other command takes the result as a CHECKPOINT.

    Example: levit-deploy fuse ckpt.pth -o ckpt.fused.safetensors
    """
    reading = Reading(
        activation=activation,
        image_size=image_size,
        weights=weights,
        preprocessing=preprocessing,
        labels=labels,
    )
    reporting = Reporting(json=json_file, quiet=quiet, force=force)
    output = output or beside(checkpoint, ".fused.safetensors")
    inputs = Inputs(checkpoint=checkpoint, labels=labels, images=images)
    check_paths(inputs, {"-o": output, "--json": reporting.json_file}, force=force)
    loaded = reading.read(checkpoint, quiet=quiet)
    from levit_deploy import pipeline

    with (
        reporting.evidence_of_failure(loaded, output),
        status(f"writing and proving {output}", quiet=quiet),
    ):
        published = pipeline.fuse(loaded, output, head=head, force=force, images=images)
    reporting.published(published, loaded)
