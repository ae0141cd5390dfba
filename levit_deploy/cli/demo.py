"""``levit-deploy demo``: the whole job on a network that the package carries."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.inputs import check_paths, json_path
from levit_deploy.cli.options import ForceOption, JsonOption, QuietOption, VerboseOption
from levit_deploy.cli.outputs import show, write_report
from levit_deploy.cli.status import status
from levit_deploy.publish.file import refuse_bad_destination


@reports_errors
def demo(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Where to leave the files.")
    ] = Path("levit-deploy-demo"),
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Do the whole job on a small LeViT trained on real scanned digits; downloads nothing.

    Example: levit-deploy demo /tmp/levit
    """
    check_paths(json_file=json_file, force=force)
    with status("loading torch", quiet=quiet):
        from levit_deploy import report
        from levit_deploy.demo import demonstration as demonstration

    if (file := json_path(json_file)) is not None:
        written = demonstration.destinations(directory)
        refuse_bad_destination(file, written, force, option="--json")
    checkpoint = demonstration.read_demo_checkpoint(directory, force=force)
    data: dict[str, Any] = {"checkpoint": report.checkpoint_data(checkpoint), "published": []}
    show(data["checkpoint"], report.print_checkpoint, json_file, quiet)
    everything = []
    steps = demonstration.publish_all(checkpoint, force=force)
    while True:
        with status("writing and proving the next file", quiet=quiet):
            published = next(steps, None)
        if published is None:
            break
        everything.append(published)
        data["published"].append(report.published_data(published))
        show(data["published"][-1], report.print_published, json_file, quiet)
    with status("comparing and timing them", quiet=quiet):
        rows = demonstration.compare(checkpoint, everything)
    data["comparison"] = [asdict(row) for row in rows]
    write_report(data, report.print_comparison, json_file, quiet, force)
