"""``levit-deploy inspect``: say what a checkpoint is."""

from __future__ import annotations

from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.inputs import check_paths, read
from levit_deploy.cli.options import (
    ActivationOption,
    CheckpointArgument,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
)
from levit_deploy.cli.outputs import write_report


@reports_errors
def inspect(
    checkpoint: CheckpointArgument,
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say what a checkpoint is: family, variant, architecture, cost, and what was assumed.

    Example: levit-deploy inspect ckpt.pth
    """
    check_paths(checkpoint, json_file=json_file, force=force)
    loaded = read(checkpoint, activation, image_size, weights, quiet=quiet)
    from levit_deploy import report

    write_report(report.checkpoint_data(loaded), report.print_checkpoint, json_file, quiet, force)
