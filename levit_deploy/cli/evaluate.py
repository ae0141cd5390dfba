"""``levit-deploy evaluate``: count the right answers of an artifact."""

from pathlib import Path
from typing import Annotated

import typer

from levit_deploy.cli import options
from levit_deploy.cli.paths import Inputs
from levit_deploy.cli.reading import Reading
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.status import status


def evaluate(
    artifact: options.Artifact,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Pictures, in one folder for each class.")
    ],
    *,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Run the original, too, and list the pictures that it classifies differently.",
        ),
    ] = None,
    batch_size: options.PicturesAtOnce = None,
    threads: options.Threads = None,
    reading: Reading,
    reporting: Reporting,
) -> None:
    """Count the right answers: top-1 and top-5 over class folders.

    Folders named like the artifact's labels are those classes. Otherwise there is a folder for
    each class, in the order of their names.

    Example: levit-deploy evaluate ckpt.onnx val/ --against ckpt.pth
    """
    inputs = Inputs(checkpoint=against, artifacts=[artifact], expect=reading.expect, images=folder)
    reporting.check_paths(inputs)
    original = None
    if against is None:
        reading.refuse_without_checkpoint("--against CHECKPOINT")
    else:
        original = reading.read(against, quiet=reporting.quiet)
        reporting.warn_of_reading(original)
    with status("loading torch", quiet=reporting.quiet):
        from levit_deploy import evaluation, report
    from levit_deploy.cli.progress import progress_bar
    from levit_deploy.pictures.files import damage_passed_over

    with damage_passed_over(), progress_bar(quiet=reporting.quiet) as done:
        result = evaluation.evaluate(
            artifact,
            folder,
            against=original,
            batch_size=batch_size,
            threads=threads,
            progress=done,
        )
    reporting.warn_of_assumed(result.preprocessing)
    reporting.write(report.evaluation_data(result, original), report.print_evaluation)
