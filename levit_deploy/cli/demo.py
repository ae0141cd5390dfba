"""``levit-deploy demo``: the whole job on a network in the package."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.options import ForceOption, JsonOption, QuietOption, VerboseOption
from levit_deploy.cli.paths import Inputs, check_paths
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.status import status
from levit_deploy.publish.file import refuse_bad_destination


@reports_errors
def demo(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="The folder for the files.")
    ] = Path("levit-deploy-demo"),
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Do the whole job on a small LeViT, trained on scanned digits; downloads nothing.

    Example: levit-deploy demo /tmp/levit
    """
    reporting = Reporting(json=json_file, quiet=quiet, force=force)
    check_paths(Inputs(), {"--json": reporting.json_file}, force=force)
    with status("loading torch", quiet=quiet):
        from levit_deploy import report
        from levit_deploy.demo import demonstration

    if (file := reporting.json_file) is not None:
        written = demonstration.destinations(directory)
        refuse_bad_destination(file, written, force, option="--json")
    checkpoint = demonstration.read_demo_checkpoint(directory, force=force)
    sheet = report.checkpoint_data(checkpoint)
    reporting.show(sheet, report.print_checkpoint)
    published, proofs = [], []
    steps = demonstration.publish_all(checkpoint, force=force)
    while True:
        with status("writing and proving the next file", quiet=quiet):
            step = next(steps, None)
        if step is None:
            break
        published.append(step)
        proofs.append(report.published_data(step))
        reporting.show(proofs[-1], report.print_published)
    with status("comparing and timing them", quiet=quiet):
        rows = demonstration.compare(checkpoint, published)
    comparison = [asdict(row) for row in rows]
    data = {"checkpoint": sheet, "published": proofs, "comparison": comparison}
    reporting.write(data, report.print_comparison)
