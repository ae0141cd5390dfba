"""How commands say what came out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from levit_deploy.cli.status import status
from levit_deploy.errors import BackendError, OutputError, VerificationError
from levit_deploy.text import as_utf8, writing_output

if TYPE_CHECKING:
    from levit_deploy.checkpoint import Checkpoint
    from levit_deploy.pictures.preprocessing import Preprocessing
    from levit_deploy.pipeline import Published


@contextmanager
def evidence_of_failure(
    checkpoint: Checkpoint,
    output: Path,
    json_file: str | None,
    quiet: bool,
    force: bool,
    page_file: Path | None = None,
) -> Iterator[None]:
    """Print the figures of a proof that failed, too; they are what the user needs then."""
    try:
        yield
    except VerificationError as error:
        if error.evidence is not None:
            try:
                report_verification(
                    error.evidence, checkpoint, output, json_file, quiet, force, page_file
                )
            except (OutputError, BackendError) as unwritten:  # which matters less
                raise VerificationError(f"{error} {unwritten}", error.evidence) from error
        raise


@contextmanager
def said_first(done: str) -> Iterator[None]:
    """Where the report of what was done cannot be written, say that it was done."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{done}, but the report of it is not whole. {error}") from error


def report_published(
    published: Published,
    checkpoint: Checkpoint,
    json_file: str | None,
    quiet: bool,
    force: bool,
) -> None:
    """Print what was published and its proof, or write it for a machine."""
    from levit_deploy import report

    data = report.published_data(published, checkpoint)
    if checkpoint.preprocessing.assumed:
        data["assumed"].append(_assumption(checkpoint.preprocessing))
    with said_first(f"{published.path} was published and is proven"):
        write_report(data, report.print_published, json_file, quiet, force)


def warn_of_assumed(preprocessing: Preprocessing, quiet: bool) -> None:
    """Say on standard error how pictures are prepared for an artifact where no config said it."""
    if preprocessing.assumed and not quiet:
        typer.echo(f"assumed: {_assumption(preprocessing)}", err=True)


def _assumption(preprocessing: Preprocessing) -> str:
    return f"pictures are prepared as for ImageNet: {preprocessing}"


def report_verification(
    verification: Any,
    checkpoint: Checkpoint,
    artifact: Path,
    json_file: str | None,
    quiet: bool,
    force: bool,
    page_file: Path | None = None,
) -> None:
    """Print a proof, or write it for a machine, and where a page is asked for, for a reader."""
    from levit_deploy import report
    from levit_deploy.publish.file import staged

    evidence = report.verification_data(verification, checkpoint)
    data = {"path": as_utf8(artifact), "verification": evidence}
    if page_file is not None:
        from levit_deploy.bench.beside import time_beside_original
        from levit_deploy.report.page.proof_page import proof_page

        with status(f"timing {artifact} beside the original", quiet=quiet):
            beside = time_beside_original(checkpoint, artifact)
        data["beside_original"] = {**asdict(beside), "verdict": beside.ratio.verdict}
        with staged(page_file, sources=(), force=force, option="--report") as temporary:
            temporary.write_text(proof_page(data), encoding="utf-8")
    write_report(data, report.print_verified, json_file, quiet, force)


def write_report(
    data: dict[str, Any],
    printer: Callable[..., None],
    json_file: str | None,
    quiet: bool,
    force: bool,
) -> None:
    """Print for a person, or write for a machine."""
    from levit_deploy import report
    from levit_deploy.publish.file import staged

    show(data, printer, json_file, quiet)
    if json_file == "-":
        with writing_output():
            print(report.to_json(data))
    elif json_file is not None:
        report_file = Path(json_file)
        with staged(report_file, sources=(), force=force, option="--json") as temporary:
            temporary.write_text(report.to_json(data) + "\n")


def show(
    data: dict[str, Any], printer: Callable[..., None], json_file: str | None, quiet: bool
) -> None:
    """Print for a person, unless nothing is to be printed or standard output is for JSON."""
    from levit_deploy import report

    if not quiet and json_file != "-":
        with writing_output():
            printer(data, report.console())
