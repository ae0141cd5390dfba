"""Find the fastest artifact that is right, and leave it in a folder with a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from levit_deploy.checkpoint import Checkpoint, Source, checkpoint_of
from levit_deploy.choices import Head, Input, Output
from levit_deploy.errors import UsageError, VerificationError
from levit_deploy.optimization.candidate import candidates, default_runtimes, require_runtimes
from levit_deploy.optimization.contest import Contest
from levit_deploy.optimization.fate import baseline, ran_out_of_time, remarks, results
from levit_deploy.optimization.outcome import Optimization
from levit_deploy.optimization.page import optimization_page
from levit_deploy.optimization.record import optimization_data
from levit_deploy.optimization.rules import Limits, Wishes
from levit_deploy.publish.file import sync
from levit_deploy.publish.folder import refuse_bad_folder, staged_folder
from levit_deploy.publish.naming import beside
from levit_deploy.quantization.quantize import Int8Options
from levit_deploy.regular_files import read_regular
from levit_deploy.report.data import to_json
from levit_deploy.verification.accuracy import require_drop
from levit_deploy.verification.inputs import picture_case

TIME_LIMIT_S = 480.0
RECORD, PAGE, CANDIDATES = "optimize.json", "optimize.html", "candidates"


def optimize(
    checkpoint: Checkpoint | Source,
    folder: str | Path,
    *,
    images: str | Path | None = None,
    runtimes: Sequence[str] | None = None,
    threads: int = 1,
    batch_size: int = 1,
    head: Head = "mean",
    input: Input = "float32",
    output: Output = "logits",
    max_drop: float | None = None,
    confident: bool = False,
    max_latency: float | None = None,
    max_size: float | None = None,
    time_limit: float = TIME_LIMIT_S,
    keep_all: bool = False,
    force: bool = False,
    given: Sequence[str] = (),
    progress: Callable[[str], object] = lambda _doing: None,
    interrupted: Callable[[Optimization], object] = lambda _known: None,
) -> Optimization:
    """Find the fastest artifact on this machine, prove it, and leave it in ``folder``.

    Every form of every runtime is made, and all are timed in turns. The fastest is proven as by
    ``export``, and a rounded one judged on pictures as by ``quantize``. If it is refused, the next
    takes its place. Beside it lie ``optimize.json`` and ``optimize.html``, the record.

    Args:
        checkpoint: As for ``export``.
        folder: A new folder, an empty one, or with ``force`` that of an earlier run.
        images: A folder of pictures such as the network will meet. Without it nothing is rounded.
        runtimes: One of RUNTIMES, or several; None stands for all that are installed.
        threads: The threads of each runtime.
        batch_size: The images that are timed at once, and the batch of formats that fix it.
        head: As for ``export``.
        input: The type of the artifact's input.
        output: The artifact's output.
        max_drop: As for ``Int8Options``.
        confident: As for ``Int8Options``.
        max_latency: The milliseconds that a batch may take.
        max_size: The megabytes that the file may have.
        time_limit: The seconds after which nothing new is made or timed. The proof of the winner
            may take longer.
        keep_all: Round, judge, prove and keep every candidate.
        force: Replace the folder of an earlier run.
        given: The checkpoint and the options to read it, as on the command line. The commands in
            the record begin with them. The default is the checkpoint's path without options.
        progress: A function that is told each step.
        interrupted: A function that is told all that is known if the work is interrupted.

    Raises:
        VerificationError: No artifact that is right fits the constraints. ``folder`` is then as it
            was, and the error has the ``Optimization`` as its evidence.
        LevitDeployError: As for ``export``.
    """
    folder, checkpoint = Path(folder), checkpoint_of(checkpoint)
    refuse_bad_folder(folder, _is_ours, force)
    require_drop(max_drop)
    _require_positive(threads=threads, batch_size=batch_size, time_limit=time_limit)
    _require_positive(max_latency=max_latency, max_size=max_size)
    chosen = default_runtimes() if runtimes is None else require_runtimes(runtimes)
    int8 = None
    if images is not None:
        int8 = Int8Options(images, max_drop, even_if_slower=True, confident=confident)
    elif max_drop is not None or confident:
        raise UsageError(
            "--max-drop and --confident are for rounded networks, which pictures judge. Give "
            "--images DIR, or leave them out."
        )
    wishes = Wishes(head=head, input=input, output=output, batch_size=batch_size)
    several, left_out = candidates(checkpoint, chosen, wishes, judged=int8 is not None)
    limits = Limits(
        threads=threads,
        time_limit=time_limit,
        int8=int8,
        max_latency=max_latency,
        max_size=max_size,
        all=keep_all,
    )
    extra = () if images is None else (picture_case(checkpoint, images),)
    with staged_folder(folder, is_ours=_is_ours, force=force) as temporary:
        work = temporary / CANDIDATES
        work.mkdir()
        contest = Contest(several, limits, batch_size, work, extra=extra, progress=progress)

        def outcome(*, ended: bool) -> Optimization:
            return Optimization(
                checkpoint=checkpoint,
                runtimes=chosen,
                wishes=wishes,
                limits=limits,
                path=folder / _name(checkpoint, contest) if ended and contest.winner else None,
                baseline=baseline(contest),
                results=results(contest),
                left_out=left_out,
                remarks=remarks(contest),
                seconds=contest.seconds,
                complete=ended and not ran_out_of_time(contest),
            )

        try:
            contest.run()
        except BaseException:  # by a signal, or for lack of memory
            interrupted(outcome(ended=False))
            raise
        optimization = outcome(ended=True)
        if optimization.path is None:
            raise VerificationError(_why_none(optimization), evidence=optimization)
        _fill(temporary, optimization, given)
    return optimization


def _fill(temporary: Path, optimization: Optimization, given: Sequence[str]) -> None:
    """Put the winner, the record and the page into a folder, and take the other files out."""
    winner, path = optimization.winner, optimization.path
    assert winner is not None
    assert path is not None
    work = temporary / CANDIDATES
    (work / winner.candidate.file_name).rename(temporary / path.name)
    kept = {r.candidate.file_name for r in optimization.results if r.file is not None}
    for file in work.iterdir():
        if file.name in kept:
            sync(file)
        else:
            file.unlink()
    if not kept:
        work.rmdir()
    data = optimization_data(optimization, given)
    (temporary / RECORD).write_text(to_json(data) + "\n", encoding="utf-8")
    (temporary / PAGE).write_text(optimization_page(data), encoding="utf-8")


def _name(checkpoint: Checkpoint, contest: Contest) -> str:
    """The name of the winner's file: the checkpoint's with another suffix."""
    assert contest.winner is not None
    suffix = contest.entrants[contest.winner].candidate.plan.target.suffix
    return beside(checkpoint.path, suffix).name if checkpoint.files else f"levit{suffix}"


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds what an earlier run left, and nothing else."""
    names = {entry.name for entry in folder.iterdir()}
    try:
        record = json.loads(read_regular(folder / RECORD))
        written = {RECORD, PAGE, CANDIDATES, Path(record["path"]).name}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return names <= written


def _why_none(optimization: Optimization) -> str:
    """The reason that there is no winner, and the next step."""
    fates = optimization.results
    fastest = min(
        (r for r in fates if r.median_s is not None), key=lambda r: r.median_s or 0, default=None
    )
    words = "No artifact was found that is proven and fits the constraints. "
    if fastest is not None and fastest.median_s is not None:
        words += (
            f"The fastest form is {fastest.candidate.label}, with {1000 * fastest.median_s:.2f} ms "
            f"a batch. {fastest.reason} "
        )
    elif fates:
        words += f"Of {fates[0].candidate.label}: {fates[0].reason} "
    return f"{words}Nothing was published. Allow more, or see the table for each form."


def _require_positive(**numbers: float | None) -> None:
    """Raise UsageError for a number that is not positive."""
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise UsageError(f"--{name.replace('_', '-')} {number:g} is not a positive number.")
