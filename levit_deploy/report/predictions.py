"""Predictions as text for a person, as JSON or CSV for a program, written one by one."""

import csv
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from levit_deploy.errors import InputError
from levit_deploy.prediction.predict import Answer, Prediction
from levit_deploy.publish.file import staged
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.text import as_utf8, printable, writing_output


@contextmanager
def answers_to(file: str | None, *, force: bool, option: str) -> Iterator[TextIO]:
    """Yield a stream to write to: standard output if ``file`` is None or '-'.

    A file gets its name once it is complete. ``option`` is the one that names it.
    """
    if file in (None, "-"):
        if isinstance(sys.stdout, TextIOWrapper):  # a name may have letters the terminal lacks
            sys.stdout.reconfigure(encoding="utf-8" if file else None, errors="backslashreplace")
        with writing_output():
            yield sys.stdout
    else:
        with (
            staged(Path(str(file)), sources=(), force=force, option=option) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            yield stream


def write_text(predictions: Iterable[Prediction], stream: TextIO) -> Iterator[Prediction]:
    """Write a line for each answered picture; yield each prediction once it is written."""
    for prediction in predictions:
        if prediction.answers:
            answers = ", ".join(map(in_words, prediction.answers))
            stream.write(printable(f"{prediction.path}: {answers}") + "\n")
        yield prediction


def in_words(answer: Answer) -> str:
    """The answer in words, as in 'tabby 62.31 %'."""
    return f"{answer.label or f'class {answer.index}'} {100 * answer.probability:.2f} %"


def write_json(
    predictions: Iterable[Prediction], stream: TextIO, artifact: Artifact
) -> Iterator[Prediction]:
    """Write one JSON document, a line for each picture; yield each once it is written."""
    path = as_utf8(artifact.path)
    facts = {"artifact": path, "sha256": artifact.sha256, "format": artifact.format}
    stream.write(json.dumps(facts)[:-1] + ', "pictures": [')
    answered = skipped = 0
    try:
        for prediction in predictions:
            item: dict[str, object] = {"path": as_utf8(prediction.path)}
            if prediction.problem:
                item["problem"] = prediction.problem
            item["answers"] = [dataclasses.asdict(answer) for answer in prediction.answers]
            separator = "," if answered + skipped else ""
            stream.write(f"{separator}\n{json.dumps(item, allow_nan=False)}")
            skipped += bool(prediction.problem)
            answered += not prediction.problem
            yield prediction
    except InputError:  # no picture could be used; the document is complete all the same
        _end_json(stream, answered, skipped)
        raise
    _end_json(stream, answered, skipped)


def _end_json(stream: TextIO, answered: int, skipped: int) -> None:
    stream.write(f'\n], "answered": {answered}, "skipped": {skipped}}}\n')


def write_csv(predictions: Iterable[Prediction], stream: TextIO) -> Iterator[Prediction]:
    """Write a row for each answer, best first; yield each prediction once it is written."""
    # up to Python 3.12, the writer by itself leaves a carriage return unquoted
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(("path", "rank", "index", "label", "probability"))
    for prediction in predictions:
        path = as_utf8(prediction.path)
        for rank, answer in enumerate(prediction.answers, 1):
            writer.writerow((path, rank, answer.index, answer.label, answer.probability))
        yield prediction
