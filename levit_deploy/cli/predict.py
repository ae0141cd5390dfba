"""``levit-deploy predict``: classify images."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from levit_deploy.choices import Engine
from levit_deploy.cli import options
from levit_deploy.cli.exits import INTERRUPTED
from levit_deploy.cli.paths import Inputs, file_of
from levit_deploy.cli.reading import open_artifact
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.status import status
from levit_deploy.errors import UsageError

if TYPE_CHECKING:
    from levit_deploy.prediction.predict import Prediction


@dataclass(frozen=True, kw_only=True)
class Work:
    """Which pictures to classify, by which artifact, and how."""

    artifact: options.Artifact
    pictures: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Images, and folders of them.")
    ]
    top_k: Annotated[int, typer.Option(min=1, help="Classes to list for each image.")] = 5
    batch_size: options.PicturesAtOnce = None
    threads: options.Threads = None


def predict(
    work: Work,
    *,
    csv_file: Annotated[
        str | None,
        typer.Option(
            "--csv", metavar="FILE", help="Write the answers as CSV; - for standard output."
        ),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the vectors of an artifact of features: .parquet, or .npy with the paths "
            "of its rows in .paths.json beside it.",
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(help="local is one process; ray is many, here or on a cluster, by Ray Data."),
    ] = "local",
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the answers as Parquet into this folder (Ray)."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes (Ray); the default is one for each processor."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Join this cluster (Ray); the default is to start one here."
        ),
    ] = None,
    reporting: Reporting,
) -> None:
    """Classify images: list the most probable classes of each. Or write their features.

    Images that cannot be read are skipped with a warning. The answers are printed, or written by
    --json or --csv.

    Example: levit-deploy predict ckpt.onnx cat.jpg photos/ --csv answers.csv
    """
    if reporting.json is not None and csv_file is not None:
        raise UsageError("--json and --csv were both given. Leave one of them out.")
    inputs = Inputs(artifacts=[work.artifact], pictures=work.pictures)
    reporting.check_paths(inputs, {"--csv": file_of(csv_file), "--embeddings": embeddings})
    if embeddings is not None:
        ray = engine == "ray" or (parquet, workers, ray_address) != (None, None, None)
        if ray or reporting.json is not None or csv_file is not None:
            raise UsageError(
                "--embeddings writes vectors, and no answers. Leave out --json, --csv and the "
                "options for Ray."
            )
        _embed(work, embeddings, reporting)
    elif engine == "ray":
        if parquet is None or reporting.json is not None or csv_file is not None:
            raise UsageError(
                "--engine ray writes only Parquet. Name a folder for it with --parquet DIR, and "
                "leave --json and --csv out."
            )
        _predict_on_ray(work, parquet, workers, ray_address, reporting)
    elif (parquet, workers, ray_address) != (None, None, None):
        raise UsageError(
            "--parquet, --workers and --ray-address are for Ray. Leave them out, or give --engine "
            "ray."
        )
    else:
        _predict_here(work, csv_file, reporting)


def _predict_here(work: Work, csv_file: str | None, reporting: Reporting) -> None:
    """Classify pictures one by one, each written before the next is read."""
    from levit_deploy.cli.progress import progress_bar
    from levit_deploy.pictures.files import damage_passed_over
    from levit_deploy.prediction.predict import every_picture, predictions
    from levit_deploy.prediction.processor import read_processor
    from levit_deploy.report.predictions import answers_to, write_csv, write_json, write_text

    quiet = reporting.quiet
    file, option = (reporting.json, "--json") if csv_file is None else (csv_file, "--csv")
    paths = every_picture(work.pictures)
    with (
        damage_passed_over(),
        open_artifact(work.artifact, work.threads, quiet=quiet) as artifact,
        answers_to(file, force=reporting.force, option=option) as stream,
        progress_bar(
            lambda: sum(1 for _ in every_picture(work.pictures)),
            shown=not stream.isatty(),
            quiet=quiet,
        ) as done,
        closing(
            predictions(artifact, paths, top_k=work.top_k, batch_size=work.batch_size)
        ) as answered,
    ):
        with status("answering the first picture", quiet=quiet or not stream.isatty()):
            first = list(islice(answered, 1))
        written: Iterable[Prediction] = chain(first, answered)
        if reporting.json is not None:
            written = write_json(written, stream, artifact)
        elif csv_file is not None:
            written = write_csv(written, stream)
        elif not quiet:
            written = write_text(written, stream)
        reporting.warn_of_assumed(read_processor(artifact).transform.preprocessing)
        for prediction in written:
            done(prediction.problem)


def _embed(work: Work, file: Path, reporting: Reporting) -> None:
    """Write the vectors of pictures, each before the next is read."""
    from levit_deploy.cli.progress import progress_bar
    from levit_deploy.pictures.files import damage_passed_over
    from levit_deploy.prediction.embeddings import (
        OPTION,
        embeddings,
        paths_file,
        require_known_suffix,
        vectors_to,
    )
    from levit_deploy.prediction.predict import every_picture
    from levit_deploy.prediction.processor import read_embedder
    from levit_deploy.publish.file import refuse_bad_destination

    require_known_suffix(file)
    if file.suffix == ".npy":
        refuse_bad_destination(paths_file(file), [file], reporting.force, OPTION)
    paths = every_picture(work.pictures)
    with (
        damage_passed_over(),
        open_artifact(work.artifact, work.threads, quiet=reporting.quiet) as artifact,
        vectors_to(file, artifact, force=reporting.force) as write,
        progress_bar(
            lambda: sum(1 for _ in every_picture(work.pictures)), quiet=reporting.quiet
        ) as done,
        closing(embeddings(artifact, paths, work.batch_size)) as embedded,
    ):
        reporting.warn_of_assumed(read_embedder(artifact).transform.preprocessing)
        for embedding in embedded:
            if embedding.vector is not None:
                write(embedding.path, embedding.vector)
            done(embedding.problem)


def _predict_on_ray(
    work: Work, folder: Path, workers: int | None, address: str | None, reporting: Reporting
) -> None:
    """Classify pictures into a folder of Parquet; list the skipped ones once all is done."""
    from levit_deploy.prediction.on_ray import predict_on_ray, require_ray

    require_ray()
    from levit_deploy.cli.progress import progress_bar
    from levit_deploy.prediction.predict import every_picture
    from levit_deploy.prediction.processor import read_processor
    from levit_deploy.targets.load import open_isolated

    quiet = reporting.quiet
    try:
        with open_isolated(work.artifact, 1) as artifact:
            reporting.warn_of_assumed(read_processor(artifact).transform.preprocessing)
            total, problems = predict_on_ray(
                artifact,
                every_picture(work.pictures),
                folder,
                top_k=work.top_k,
                batch_size=work.batch_size,
                threads=work.threads,
                workers=workers,
                address=address,
                force=reporting.force,
                progress=not quiet and sys.stderr.isatty(),
            )
    except BaseException as error:
        if not isinstance(error, Exception):
            # Some of Ray's threads are then still at work, and do not survive the end of the
            # interpreter. All else has ended before it, so nothing is lost by leaving it out.
            atexit.register(os._exit, INTERRUPTED)
        raise
    with progress_bar(lambda: total, quiet=quiet, shown=False) as done:
        for problem in [*problems, *[""] * (total - len(problems))]:
            done(problem)
