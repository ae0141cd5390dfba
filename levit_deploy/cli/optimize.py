"""``levit-deploy optimize``: find the fastest artifact on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from levit_deploy.choices import Input, Output
from levit_deploy.cli import options
from levit_deploy.cli.paths import Inputs
from levit_deploy.cli.reading import ReadingWithUse
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.status import status
from levit_deploy.errors import VerificationError
from levit_deploy.publish.naming import beside

if TYPE_CHECKING:
    from levit_deploy.optimization.outcome import Optimization


def optimize(
    checkpoint: options.Checkpoint,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="A new folder for the winner and the record; the default is beside the "
            "checkpoint, as in ckpt.optimized.",
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Runtimes that may run it, of onnxruntime, openvino, litert, executorch and "
            "torch; the default is all that are installed.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images to time at once.")] = 1,
    max_latency: Annotated[
        float | None, typer.Option(metavar="MS", help="Milliseconds that a batch may take.")
    ] = None,
    max_size: Annotated[
        float | None, typer.Option(metavar="MB", help="Megabytes that the file may have.")
    ] = None,
    head: options.Head = "mean",
    input_type: Annotated[Input, typer.Option(help="The input, as for export.")] = "float32",
    output_type: Annotated[Output, typer.Option(help="The output, as for export.")] = "logits",
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            help="Make and time nothing new after so long. The winner's proof may take longer.",
        ),
    ] = 8,
    keep_all: Annotated[
        bool,
        typer.Option("--keep-all", help="Judge and prove every form, and keep them all."),
    ] = False,
    reading: ReadingWithUse,
    images: options.CalibratingImages = None,
    max_drop: options.MaxDrop = None,
    confident: options.Confident = False,
    reporting: Reporting,
) -> None:
    """Find the fastest artifact on this machine: make every form, time all, prove the best.

    Example: levit-deploy optimize ckpt.pth --images val/ -o fastest
    """
    folder = output or beside(checkpoint, ".optimized")
    inputs = Inputs(
        checkpoint=checkpoint, labels=reading.labels, expect=reading.expect, images=images
    )
    reporting.check_paths(inputs)
    loaded = reading.read(checkpoint, quiet=reporting.quiet)
    reporting.warn_of_reading(loaded)
    from levit_deploy.optimization.optimize import optimize as find_fastest
    from levit_deploy.optimization.outcome import Optimization
    from levit_deploy.optimization.record import optimization_data, print_optimization

    given = (str(checkpoint), *reading.words())

    def report(optimization: Optimization) -> None:
        reporting.write(optimization_data(optimization, given), print_optimization)

    try:
        with status("making every form", quiet=reporting.quiet) as tell:
            optimization = find_fastest(
                loaded,
                folder,
                images=images,
                runtimes=None if runtime is None else [n.strip() for n in runtime.split(",")],
                threads=threads,
                batch_size=batch_size,
                head=head,
                input=input_type,
                output=output_type,
                max_drop=max_drop,
                confident=confident,
                max_latency=max_latency,
                max_size=max_size,
                time_limit=time_limit * 60,
                keep_all=keep_all,
                force=reporting.force,
                given=given,
                progress=tell,
                interrupted=report,
            )
    except VerificationError as error:
        if isinstance(error.evidence, Optimization):
            report(error.evidence)
        raise
    report(optimization)
