"""The names of the classes, in the order of the logits."""

import json
import unicodedata
from contextlib import suppress
from pathlib import Path

from levit_deploy.errors import InputError
from levit_deploy.regular_files import read_regular

MAX_BYTES = 1 << 24  # names of 20,000 classes take 1 MB


def in_order(names: object) -> tuple[str, ...]:
    """Labels from a list, or from an object whose keys are the class indices, all of them.

    Raises ValueError, with the reason in words, for anything else, and for a label that is not one
    line of text.
    """
    if isinstance(names, dict):
        indices = [str(i) for i in range(len(names))]
        if missing := [i for i in indices if i not in names]:
            raise ValueError(f"{len(names)} labels, and none of them for the class {missing[0]}")
        names = [names[i] for i in indices]
    if not isinstance(names, list | tuple):
        raise ValueError(f"labels as a {type(names).__name__}, not a list or an object")
    for i, name in enumerate(names):
        if not (isinstance(name, str) and name.strip() and _is_one_line(name)):
            raise ValueError(f"the label {str(name)[:40]!r} for the class {i}, not a line of text")
    return tuple(names)


def _is_one_line(name: str) -> bool:
    """Whether it has no control character, line separator or lone surrogate."""
    return not {unicodedata.category(character) for character in name} & {"Cc", "Zl", "Zp", "Cs"}


def read_labels(path: Path) -> tuple[str, ...]:
    """Read labels from a UTF-8 file: one a line, or a JSON list, or a JSON object by class index.

    Raises InputError if they cannot be read.
    """
    try:
        text = read_regular(path, limit=MAX_BYTES).decode("utf-8-sig")
        return in_order(_names(text))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} does not hold labels: {error}. Expected UTF-8 text with one label a "
            'line, or JSON: a list, or an object such as {"0": "cat"}. Correct the file.'
        ) from error


def _names(text: str) -> object:
    if text.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError):  # or a name begins so, such as [unk]
            return json.loads(text)
    return [line.strip(" \t\r") for line in text.rstrip(" \t\r\n").split("\n")]
