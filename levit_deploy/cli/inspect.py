"""``levit-deploy inspect``: describe a checkpoint."""

from __future__ import annotations

from levit_deploy.cli.exits import reports_errors
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
from levit_deploy.cli.paths import Inputs, check_paths
from levit_deploy.cli.reading import Reading
from levit_deploy.cli.reporting import Reporting


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
    """Describe a checkpoint: family, variant, architecture, cost and assumptions.

    Example: levit-deploy inspect ckpt.pth
    """
    reading = Reading(activation=activation, image_size=image_size, weights=weights)
    reporting = Reporting(json=json_file, quiet=quiet, force=force)
    check_paths(Inputs(checkpoint=checkpoint), {"--json": reporting.json_file}, force=force)
    loaded = reading.read(checkpoint, quiet=quiet)
    from levit_deploy import report

    reporting.write(report.checkpoint_data(loaded), report.print_checkpoint)
