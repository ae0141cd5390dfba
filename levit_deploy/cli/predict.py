"""``levit-deploy predict``: answer pictures."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from levit_deploy.choices import Engine
from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.inputs import check_paths, open_artifact
from levit_deploy.cli.options import (
    ArtifactArgument,
    ForceOption,
    JsonOption,
    PicturesAtOnceOption,
    QuietOption,
    ThreadsOption,
    VerboseOption,
)
from levit_deploy.cli.outputs import warn_of_assumed
from levit_deploy.cli.status import status
from levit_deploy.errors import UsageError

if TYPE_CHECKING:
    from levit_deploy.prediction.predict import Prediction


@reports_errors
def predict(
    artifact: ArtifactArgument,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Pictures, and folders of them.")
    ],
    top_k: Annotated[int, typer.Option(min=1, help="How many answers to a picture.")] = 5,
    csv_file: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Write answers as CSV; - for standard output."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="One process here, or many, here or on a cluster, by Ray Data.")
    ] = "local",
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write answers as Parquet into this folder (Ray)."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes (Ray); one for each processor if not given."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Join the cluster there; one is started here if not given."
        ),
    ] = None,
    batch_size: PicturesAtOnceOption = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say what is in pictures: the most probable classes of each.

    What cannot be read is skipped with a warning. Answers are printed, or go where --json or --csv
    says.

    Example: levit-deploy predict ckpt.onnx cat.jpg photos/ --csv answers.csv
    """
    if json_file is not None and csv_file is not None:
        raise UsageError("--json and --csv were both given. Leave one of them out.")
    file, option = (json_file, "--json") if csv_file is None else (csv_file, "--csv")
    check_paths(None, artifact, pictures=pictures, json_file=file, json_option=option, force=force)
    if engine == "ray":
        if parquet is None or file is not None:
            raise UsageError(
                "--engine ray writes Parquet, and nothing else. Name a folder for it with "
                "--parquet DIR, and leave --json and --csv out."
            )
        run = {"top_k": top_k, "batch_size": batch_size, "threads": threads, "workers": workers}
        _predict_on_ray(artifact, pictures, parquet, ray_address, force, quiet, **run)
        return
    if (parquet, workers, ray_address) != (None, None, None):
        raise UsageError(
            "--parquet, --workers and --ray-address are for Ray. Leave them out, or give --engine "
            "ray."
        )
    from levit_deploy.cli.progress import progress_bar
    from levit_deploy.pictures.files import damage_passed_over
    from levit_deploy.prediction.predict import every_picture, predictions
    from levit_deploy.prediction.processor import read_processor
    from levit_deploy.report.predictions import answers_to, write_csv, write_json, write_text

    paths = every_picture(pictures)
    with (
        damage_passed_over(),
        open_artifact(artifact, threads, quiet) as opened,
        answers_to(file, force=force, option=option) as stream,
        progress_bar(
            lambda: sum(1 for _ in every_picture(pictures)),
            shown=not stream.isatty(),
            quiet=quiet,
        ) as done,
        closing(predictions(opened, paths, top_k=top_k, batch_size=batch_size)) as found,
    ):
        with status("answering the first picture", quiet=quiet or not stream.isatty()):
            first = list(islice(found, 1))
        written: Iterable[Prediction] = chain(first, found)
        if json_file is not None:
            written = write_json(written, stream, opened)
        elif csv_file is not None:
            written = write_csv(written, stream)
        elif not quiet:
            written = write_text(written, stream)
        warn_of_assumed(read_processor(opened).preprocessing, quiet)
        for prediction in written:
            done(prediction.problem)


def _predict_on_ray(
    artifact: Path,
    pictures: Sequence[Path],
    folder: Path,
    address: str | None,
    force: bool,
    quiet: bool,
    **run: Any,
) -> None:
    """Answer pictures into a folder, and say what was skipped once all is done."""
    from levit_deploy.prediction.on_ray import predict_on_ray, require_ray

    require_ray()
    from levit_deploy.cli.progress import progress_bar
    from levit_deploy.prediction.predict import every_picture
    from levit_deploy.prediction.processor import read_processor
    from levit_deploy.runtime.isolated import open_isolated

    try:
        with open_isolated(artifact, 1) as opened:
            warn_of_assumed(read_processor(opened).preprocessing, quiet)
            total, problems = predict_on_ray(
                opened,
                every_picture(pictures),
                folder,
                address=address,
                force=force,
                progress=not quiet and sys.stderr.isatty(),
                **run,
            )
    except BaseException as error:
        if not isinstance(error, Exception):
            # Some of Ray's threads are then still at work, and do not survive the end of the
            # interpreter; all else has come to its end before it, and so this is left out.
            atexit.register(os._exit, 130)
        raise
    with progress_bar(lambda: total, quiet=quiet, shown=False) as done:
        for problem in [*problems, *[""] * (total - len(problems))]:
            done(problem)
