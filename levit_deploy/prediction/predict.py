"""From pictures to answers, for any number of pictures."""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from levit_deploy.arrays import BATCH_SIZE, FloatArray, Images
from levit_deploy.errors import InputError, UsageError
from levit_deploy.pictures.files import no_pictures, read_picture, walk_pictures
from levit_deploy.prediction.ahead import map_ahead
from levit_deploy.prediction.processor import Processor, read_processor, run
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.load import open_isolated
from levit_deploy.text import as_utf8

READERS = min(8, os.cpu_count() or 1)
TOP_K = 5


@dataclass(frozen=True)
class Answer:
    """One class: its index, its label ('' if the artifact has none), its probability."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answers of an artifact to a picture, the most probable class first.

    If the picture could not be used, there are no ``answers``, and ``problem`` is the reason.
    """

    path: Path
    answers: tuple[Answer, ...]
    problem: str = ""


@dataclass(frozen=True)
class Scored:
    """A picture as the artifact's input, with its output, (classes,); or the problem."""

    path: Path
    input: Images | None
    scores: FloatArray | None
    problem: str = ""


def predict(
    artifact: str | Path,
    pictures: str | Path | Iterable[str | Path],
    *,
    top_k: int = TOP_K,
    batch_size: int | None = None,
    threads: int | None = None,
) -> Iterator[Prediction]:
    """Answer pictures in order, prepared by the artifact's metadata; memory stays flat.

        for prediction in levit_deploy.predict("ckpt.onnx", "photos/"):
            print(prediction.path, prediction.answers[0].label if prediction.answers else "-")

    The artifact runs in a process of its own, and other threads read ahead.

    Args:
        artifact: The path of a file that was exported or fused.
        pictures: Files, and folders for all pictures below them.
        top_k: The number of answers to each picture.
        batch_size: The number of pictures run at once. None stands for BATCH_SIZE, or the fixed
            batch of the artifact.
        threads: The threads of the runtime.

    Raises:
        InputError: At once for a path that does not exist and a folder without pictures; at the end
            if no picture could be used.
        ArtifactError: With the first answer: the file is not an artifact, or has no preprocessing.
        UsageError: With the first answer: a number makes no sense.
        BackendError: The runtime crashes, hangs or runs out of memory.
    """
    named = [pictures] if isinstance(pictures, str | Path) else pictures
    paths = every_picture([Path(path) for path in named])

    def answers() -> Iterator[Prediction]:
        with open_isolated(Path(artifact), threads) as opened:
            yield from predictions(opened, paths, top_k=top_k, batch_size=batch_size)

    return answers()


def predictions(
    artifact: Artifact, paths: Iterable[Path], *, top_k: int = TOP_K, batch_size: int | None = None
) -> Generator[Prediction, None, None]:
    """The same for an open artifact, and for files only."""
    if top_k < 1:
        raise UsageError(f"--top-k {top_k} is not a positive number of classes.")
    processor = read_processor(artifact)
    with closing(scored(artifact, processor, paths, batch_size)) as pictures:
        for picture in pictures:
            answers: tuple[Answer, ...] = ()
            if picture.scores is not None:
                answers = best(
                    picture.scores, processor.labels, top_k, logits=processor.gives_logits
                )
            yield Prediction(picture.path, answers, picture.problem)


def every_picture(paths: Sequence[Path]) -> Iterator[Path]:
    """The files as they are, whatever their names, and every picture below the folders.

    Raises InputError at once if one does not exist, or is a folder without pictures.
    """
    for path in paths:
        try:
            path.stat()
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror}. Expected a picture or a folder of them. "
                "Check the path."
            ) from error
        if path.is_dir() and next(walk_pictures(path), None) is None:
            raise no_pictures(path)
    return chain.from_iterable(walk_pictures(p) if p.is_dir() else (p,) for p in paths)


def scored(
    artifact: Artifact, processor: Processor, paths: Iterable[Path], batch_size: int | None = None
) -> Generator[Scored, None, None]:
    """Read pictures ahead, run them in batches, and yield each with its output.

    Raises InputError at the end if none could be used.
    """
    size = pictures_at_once(artifact, batch_size)
    share = max(1, size // READERS)  # handing over one small picture takes as long as reading it

    def read(paths: Sequence[Path]) -> list[tuple[Path, Images | InputError]]:
        inputs: list[tuple[Path, Images | InputError]] = []
        for path in paths:
            try:
                inputs.append((path, read_picture(path, processor.to_input)))
            except InputError as error:
                inputs.append((path, error))
        return inputs

    usable, problem, remaining = 0, "", iter(paths)
    shares = iter(lambda: list(islice(remaining, share)), [])
    ahead = 2 * max(size, READERS) // share  # a batch to run next, and one to read while it runs
    with closing(map_ahead(read, shares, threads=READERS, ahead=ahead)) as ready:
        pictures = chain.from_iterable(ready)
        while batch := list(islice(pictures, size)):
            whole = [array for _, array in batch if not isinstance(array, InputError)]
            usable += len(whole)
            scores = iter(run(artifact, processor, np.stack(whole)) if whole else ())
            for path, array in batch:
                if isinstance(array, InputError):
                    problem = as_utf8(str(array))
                    yield Scored(path, None, None, problem)
                else:
                    yield Scored(path, array, next(scores))
    if problem and not usable:
        raise no_picture_used(problem)


def no_picture_used(problem: str) -> InputError:
    """The error if all pictures were skipped, the last for this problem."""
    return InputError(f"No picture could be used. The problem of the last one: {problem}")


def best(
    scores: FloatArray, labels: Sequence[str], top_k: int, *, logits: bool
) -> tuple[Answer, ...]:
    """The most probable classes, the first of equal ones; a softmax of logits is in float64."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    probabilities = scores.astype(np.float64)
    if logits:
        probabilities = np.exp(probabilities - probabilities.max())
        probabilities /= probabilities.sum()
    return tuple(
        Answer(int(i), labels[i] if labels else "", float(probabilities[i])) for i in order
    )


def pictures_at_once(artifact: Artifact, asked: int | None) -> int:
    """The number of pictures to run at once; UsageError if the artifact cannot take ``asked``."""
    if asked is not None and asked < 1:
        raise UsageError(f"--batch-size {asked} is not a positive number of pictures.")
    if artifact.batch_size is None:
        return asked or BATCH_SIZE
    if asked not in (None, artifact.batch_size):
        raise UsageError(
            f"--batch-size is {asked}, but {artifact.path} takes exactly {artifact.batch_size} "
            "images at once. Leave the option out."
        )
    return artifact.batch_size
