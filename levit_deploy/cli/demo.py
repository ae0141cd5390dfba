"""``levit-deploy demo``: the whole job on a network in the package."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from levit_deploy.cli.paths import Inputs
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.status import status
from levit_deploy.publish.file import refuse_bad_destination


def demo(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="The folder for the files.")
    ] = Path("levit-deploy-demo"),
    *,
    reporting: Reporting,
) -> None:
    """Do the whole job on a small LeViT, trained on scanned digits; downloads nothing.

    Example: levit-deploy demo /tmp/levit
    """
    reporting.check_paths(Inputs())
    with status("loading torch", quiet=reporting.quiet):
        from levit_deploy import report
        from levit_deploy.demo import demonstration

    if (file := reporting.json_file) is not None:
        written = demonstration.destinations(directory)
        refuse_bad_destination(file, written, reporting.force, option="--json")
    checkpoint = demonstration.read_demo_checkpoint(directory, force=reporting.force)
    sheet = report.checkpoint_data(checkpoint)
    reporting.show(sheet, report.print_checkpoint)
    published, proofs = [], []
    steps = demonstration.publish_all(checkpoint, force=reporting.force)
    while True:
        with status("writing and proving the next file", quiet=reporting.quiet):
            step = next(steps, None)
        if step is None:
            break
        published.append(step)
        proofs.append(report.published_data(step))
        reporting.show(proofs[-1], report.print_published)
    with status("comparing and timing them", quiet=reporting.quiet):
        rows = demonstration.compare(checkpoint, published)
    comparison = [asdict(row) for row in rows]
    data = {"checkpoint": sheet, "published": proofs, "comparison": comparison}
    reporting.write(data, report.print_comparison)
