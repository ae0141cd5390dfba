"""``levit-deploy inspect``: describe a checkpoint."""

from levit_deploy.cli import options
from levit_deploy.cli.paths import Inputs
from levit_deploy.cli.reading import Reading
from levit_deploy.cli.reporting import Reporting


def inspect(checkpoint: options.Checkpoint, reading: Reading, reporting: Reporting) -> None:
    """Describe a checkpoint: family, variant, architecture, cost and assumptions.

    Example: levit-deploy inspect ckpt.pth
    """
    reporting.check_paths(Inputs(checkpoint=checkpoint, expect=reading.expect))
    loaded = reading.read(checkpoint, quiet=reporting.quiet)
    from levit_deploy import report

    reporting.write(report.checkpoint_data(loaded), report.print_checkpoint)
