"""Predictions by many processes, on this machine or on a cluster, scheduled by Ray Data.

Ray keeps a worker for each session, hands out groups of pictures as workers ask for them, and waits
if results pile up. It replaces a worker that died, and does groups without a result again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy import errors
from levit_deploy.extras import require_extra
from levit_deploy.prediction.cluster import cluster
from levit_deploy.prediction.predict import (
    Prediction,
    no_picture_used,
    pictures_at_once,
    predictions,
)
from levit_deploy.prediction.processor import read_processor
from levit_deploy.publish.folder import staged_folder
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.load import open_isolated
from levit_deploy.text import as_utf8

if TYPE_CHECKING:
    import pyarrow as pa

OPTION = "--parquet"
BATCHES = 16  # in a group: enough that handing it out costs little, few enough to do again
ROWS = 10_000  # in a file, at least


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of every worker; paths are relative to ``folder``, the current one here."""

    artifact: Path
    sha256: str
    folder: Path
    top_k: int
    batch_size: int | None
    threads: int


def require_ray() -> None:
    """Raise UsageError if Ray Data is not installed, before anything runs."""
    require_extra("ray", ("ray", "pyarrow", "pandas"), "--engine ray")


def predict_on_ray(
    artifact: Artifact,
    paths: Iterable[Path],
    destination: Path,
    *,
    top_k: int,
    batch_size: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    address: str | None = None,
    force: bool = False,
    progress: bool = False,
) -> tuple[int, list[str]]:
    """Answer pictures as ``predictions`` does, and write them as Parquet; nothing goes missing.

    ``artifact`` is open here for its metadata. Each of ``workers`` workers opens it again, with
    ``threads`` threads, one if that is None. If ``workers`` is None, there are as many as the
    cluster has processors for. The cluster at ``address`` must have the artifact, the pictures and
    ``destination`` under the same paths; None starts one on this machine, which ends with the call.
    Returns the number of pictures, and the problems of the skipped ones. Raises InputError if no
    picture could be used, UsageError if no machine has so many processors, and BackendError if
    workers cannot start, the runtime crashes, or a picture is left out. Raises OutputError as
    ``staged_folder`` does, or if the folder's path is not UTF-8.
    """
    from levit_deploy.prediction.parquet import is_parquet_of_ours, read_problems

    read_processor(artifact)  # raises here the error that every worker would raise
    whole = str(destination.resolve())
    if as_utf8(whole) != whole:
        raise errors.OutputError(
            f"The name {whole} is not UTF-8, and the Parquet library cannot write to it. Choose "
            f"another folder with {OPTION}."
        )
    size = BATCHES * pictures_at_once(artifact, batch_size)
    job = Job(
        artifact=artifact.path,
        sha256=artifact.sha256,
        folder=Path.cwd(),
        top_k=top_k,
        batch_size=batch_size,
        threads=threads or 1,
    )
    groups = list(_groups(paths, size))
    if workers is not None:
        workers = min(workers, len(groups))
    with (
        staged_folder(
            destination, is_ours=is_parquet_of_ours, force=force, option=OPTION
        ) as temporary,
        cluster(address, None if workers is None else workers * job.threads) as cpus,
    ):
        if job.threads > max(cpus):  # Ray would wait for a machine that has
            raise errors.UsageError(
                f"--threads is {job.threads}, and no machine of the Ray cluster has more than "
                f"{max(cpus)} processors. Give no more."
            )
        count = workers or min(sum(n // job.threads for n in cpus), len(groups))
        _run(job, groups, temporary, count, progress)
        problems = read_problems(temporary, (path for group in groups for path in group))
        total = sum(map(len, groups))
        if len(problems) == total:
            raise no_picture_used(problems[-1])
    return total, problems


def _groups(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    """The pictures in order, in groups of whole batches: the batches of a single process."""
    paths = iter(paths)
    while group := list(islice(paths, size)):
        yield group


class _Worker:
    """A session in a process that Ray starts, and starts again if it dies."""

    def __init__(self, job: Job) -> None:
        self.job, self.kept = job, ExitStack()

    @cached_property
    def artifact(self) -> Artifact:
        """The session, opened at the first call: Ray gives up if a worker dies any earlier.

        After that Ray replaces a worker that dies, without end, but gives up if one raises. So the
        runtime has a process of its own: its crash raises, and a machine's does not.
        """
        try:
            os.chdir(self.job.folder)
        except OSError as error:
            raise errors.InputError(
                f"The folder {self.job.folder} is not there on a machine of the cluster: "
                f"{error.strerror}. Expected the same folders on all. Share it, or start the "
                "command in one that they share."
            ) from error
        artifact = self.kept.enter_context(open_isolated(self.job.artifact, self.job.threads))
        if artifact.sha256 != self.job.sha256:
            raise errors.ArtifactError(
                f"{self.job.artifact} is another file on a machine of the cluster. Expected the "
                "same one on all. Copy it there."
            )
        return artifact

    def __call__(self, groups: pa.Table) -> pa.Table:
        from levit_deploy.pictures.files import damage_passed_over
        from levit_deploy.prediction.parquet import schema, to_table

        with damage_passed_over():
            answered = [
                prediction
                for group in groups["paths"].to_pylist()
                for prediction in self._answer([Path(os.fsdecode(path)) for path in group])
            ]
        return to_table(answered, schema(self.artifact))

    def _answer(self, paths: Sequence[Path]) -> list[Prediction]:
        answered: list[Prediction] = []
        try:
            for prediction in predictions(
                self.artifact, paths, top_k=self.job.top_k, batch_size=self.job.batch_size
            ):
                answered.append(prediction)
        except errors.InputError:  # none of these could be used; in other groups some may be
            if len(answered) < len(paths):
                raise
        return answered


def _run(
    job: Job, groups: Sequence[Sequence[Path]], folder: Path, workers: int, progress: bool
) -> None:
    """Let ``workers`` workers answer all groups, into files in ``folder``."""
    import pyarrow.fs
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = progress
    context.print_on_execution_start = False
    items = [{"paths": [os.fsencode(path) for path in group]} for group in groups]
    try:
        ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Worker,
            fn_constructor_args=(job,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=job.threads,
        ).write_parquet(
            str(folder.resolve()),
            filesystem=pyarrow.fs.LocalFileSystem(),  # or a path would be read as an address
            min_rows_per_file=ROWS,
            ray_remote_args={"num_cpus": 0},  # all are the workers'
        )
    except ray.exceptions.RayError as error:
        raise _in_our_words(error) from error


def _in_our_words(error: BaseException) -> errors.LevitDeployError:
    """The error of a worker, of which Ray keeps the text, or the end of the worker."""
    text = str(error).strip()
    told = re.search(r"^levit_deploy\.errors\.(\w+): (.+)$", text, re.MULTILINE)
    if told is not None:
        raised: errors.LevitDeployError = getattr(errors, told[1])(told[2])
        return raised
    # below the traceback of the first exception, and before those that it led to
    first = re.search(r"^[\w.]+: .+$", text, re.MULTILINE)
    line = first[0] if first else (text.splitlines() or [type(error).__name__])[-1]
    return errors.BackendError(
        f"Ray failed: {line.strip().rstrip('.')}. A worker that dies is replaced, so this has "
        "another cause. Run the command again with -v."
    )
