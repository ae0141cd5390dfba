"""How a command reports its result: to a person, to a program, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from levit_deploy.cli.paths import Inputs, check_paths, file_of
from levit_deploy.cli.status import status
from levit_deploy.errors import BackendError, OutputError, VerificationError
from levit_deploy.text import as_utf8, printable, writing_output

if TYPE_CHECKING:
    from rich.console import Console

    from levit_deploy.checkpoint import Checkpoint
    from levit_deploy.pictures.preprocessing import Preprocessing
    from levit_deploy.pipeline import Published
    from levit_deploy.report.data import Data
    from levit_deploy.verification.result import Verification


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where a result goes: a table, JSON and, for a proof, an HTML page.

    If JSON goes to standard output, there is no table.
    """

    page: Path | None = None
    json: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the report as JSON; - for standard output."),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")] = False
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print each step with its time, and tracebacks.")
    ] = False

    @property
    def json_file(self) -> Path | None:
        """The file for JSON, if there is one."""
        return file_of(self.json)

    def check_paths(self, inputs: Inputs, outputs: Mapping[str, Path | None] | None = None) -> None:
        """Check the paths that the command reads and writes, with the files of the report."""
        check_paths(inputs, {**(outputs or {}), **self._files}, force=self.force)

    def remove_earlier(self) -> None:
        """Remove what an earlier run wrote, or it could be taken for the verdict of this one."""
        from levit_deploy.publish.file import remove_earlier

        for option, path in self._files.items():
            if path is not None:
                remove_earlier(path, option)

    @property
    def _files(self) -> dict[str, Path | None]:
        return {"--report": self.page, "--json": self.json_file}

    def show(self, data: Data, printer: Callable[[Data, Console], None]) -> None:
        """Print a table, unless nothing is to be printed or standard output is for JSON."""
        from levit_deploy import report

        if not self.quiet and self.json != "-":
            with writing_output():
                printer(data, report.console())

    def write(self, data: Data, printer: Callable[[Data, Console], None]) -> None:
        """Print a table and write JSON, as far as they are asked for."""
        from levit_deploy import report
        from levit_deploy.publish.file import staged

        self.show(data, printer)
        if self.json == "-":
            with writing_output():
                print(report.to_json(data))
        elif (file := self.json_file) is not None:
            with staged(file, sources=(), force=self.force, option="--json") as temporary:
                temporary.write_text(report.to_json(data) + "\n")

    def warn_of_assumed(self, preprocessing: Preprocessing) -> None:
        """Tell on standard error how pictures are prepared, if no config told."""
        if preprocessing.assumed and not self.quiet:
            typer.echo(f"assumed: {_assumption(preprocessing)}", err=True)

    def warn_of_reading(self, checkpoint: Checkpoint) -> None:
        """Tell on standard error of tensors left out, and of assumptions that could be wrong."""
        if not self.quiet:
            for tensors in checkpoint.passed_over:
                typer.echo(f"passed over: {printable(tensors)}", err=True)
            for fact in checkpoint.proven_if:
                typer.echo(f"assumed: {fact}", err=True)

    def note(self, sentence: str) -> None:
        """Tell on standard error what you should know of a file, if there is something."""
        if sentence and not self.quiet:
            typer.echo(f"note: {sentence}", err=True)

    def published(self, published: Published, checkpoint: Checkpoint) -> None:
        """Report a file that was written, with its proof."""
        from levit_deploy import report

        data = report.published_data(published, checkpoint)
        if checkpoint.preprocessing.assumed:
            data["assumed"].append(_assumption(checkpoint.preprocessing))
        with _done_in_any_case(f"{published.path} was published and is proven"):
            self.write(data, report.print_published)

    def proven(self, verification: Verification, checkpoint: Checkpoint, artifact: Path) -> None:
        """Report a proof that succeeded."""
        with _done_in_any_case(f"{artifact} is proven"):
            self._proof(verification, checkpoint, artifact)

    @contextmanager
    def evidence_of_failure(self, checkpoint: Checkpoint, artifact: Path) -> Iterator[None]:
        """Report the figures of a proof that fails in the block: you need them most then."""
        try:
            yield
        except VerificationError as error:
            from levit_deploy.verification.result import Verification

            if isinstance(error.evidence, Verification):
                try:
                    self._proof(error.evidence, checkpoint, artifact)
                except (OutputError, BackendError) as unwritten:  # which matters less
                    raise VerificationError(f"{error} {unwritten}", error.evidence) from error
            raise

    def _proof(self, verification: Verification, checkpoint: Checkpoint, artifact: Path) -> None:
        from levit_deploy import report

        evidence = report.verification_data(verification, checkpoint)
        data = {
            "path": as_utf8(artifact),
            "passed_over": list(checkpoint.passed_over),
            "assumed": list(checkpoint.assumed),
            "verification": evidence,
        }
        if self.page is not None:
            data["beside_original"] = self._timed(checkpoint, artifact)
            self._write_page(self.page, data)
        self.write(data, report.print_verified)

    def _timed(self, checkpoint: Checkpoint, artifact: Path) -> Data:
        from levit_deploy.bench.beside import time_beside_original

        with status(f"timing {artifact} beside the original", quiet=self.quiet):
            beside = time_beside_original(checkpoint, artifact)
        return {**asdict(beside), "verdict": beside.ratio.verdict}

    def _write_page(self, page: Path, data: Data) -> None:
        from levit_deploy.publish.file import staged
        from levit_deploy.report.page.proof_page import proof_page

        with staged(page, sources=(), force=self.force, option="--report") as temporary:
            temporary.write_text(proof_page(data), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class ReportingWithPage(Reporting):
    """The same, with an option for the page."""

    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write the evidence as an HTML page, with charts and the speed.",
        ),
    ] = None


@contextmanager
def _done_in_any_case(done: str) -> Iterator[None]:
    """If the report cannot be written, tell first that the work is done."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{done}, but the report of it is not whole. {error}") from error


def _assumption(preprocessing: Preprocessing) -> str:
    return f"pictures are prepared as for ImageNet: {preprocessing}"
