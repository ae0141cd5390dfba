"""Find the record of a training run: the arguments that its code keeps with the weights.

- timm's ``train.py`` and the official ``main.py`` keep ``args`` in the checkpoint. timm writes them
  into ``args.yaml`` beside it, too.
- Lightning keeps ``hyper_parameters``, and its logger writes them into ``hparams.yaml``.
- mmengine keeps the text of its config, which is Python, in ``meta``.

Nothing of a record is run. One that cannot be read is told, and counts as none.
"""

import ast
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from levit_deploy.checkpoint.folder import MAX_CONFIG_BYTES
from levit_deploy.checkpoint.pickles.allowance import Allowance
from levit_deploy.checkpoint.pickles.inert import Inert, Named, attributes
from levit_deploy.regular_files import read_regular

_KEYS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt", "opts")
# The arguments that state a fact of a network. Without any, a mapping is of something else, such as
# an optimizer's under 'opt'.
_FACTS = {"model", "model_kwargs", "arch", "act_layer", "act_cfg", "activation", "backbone"}
_FACTS |= {"img_size", "image_size", "input_size", "num_classes", "nb_classes", "in_chans"}
_FACTS |= {"mean", "std", "crop_pct", "data_set", "global_pool", "test_pipeline"}
# the names of the classes, which some codes keep beside the arguments
CLASS_NAMES = ("classes", "class_names", "CLASSES", "class_to_idx", "idx_to_class", "id2label")
_DEPTH = 4  # of mappings in mappings: a model's arguments in a run's
_MAX_DEPTH = 6  # of all that is in an argument
_MAX_WORDS = 100_000  # of an argument: ImageNet-21k has 21,841 classes


@dataclass(frozen=True)
class TrainingRecord:
    """The arguments of a run by name, and their place in words.

    An argument within another counts under its own name, too, unless an outer one of that name has
    a value. ``unread`` is a file of a record that cannot be read.
    """

    arguments: Mapping[str, Any]
    source: str
    unread: str = ""


NO_RECORD = TrainingRecord({}, "")


def find_record(contents: Mapping[str, Any], path: Path, *, beside: bool = True) -> TrainingRecord:
    """Return the record in a checkpoint's contents, or else in a file ``beside`` the checkpoint."""
    record = _arguments(contents, path, beside)
    meta = attributes(contents.get("meta"))
    places = (contents, attributes(meta.get("dataset_meta")), meta)
    names = {key: place[key] for place in places for key in CLASS_NAMES if key in place}
    arguments = {**names, **record.arguments}
    if not arguments:
        return record
    try:
        plain, _ = _Plain().of(arguments, 0)
    except ValueError:  # it is too large
        return NO_RECORD
    return TrainingRecord(plain, record.source or path.name)


class _Plain:
    """Copies of values in plain data, with None for all else, such as tensors.

    A list that is in another twice, and that in a third, and so on, has no end if it is printed or
    compared. So a value that takes many words to print is None, too.
    """

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, int]] = {}
        self._allowance = Allowance()

    def of(self, value: object, depth: int) -> tuple[Any, int]:
        """Return the copy and its number of words. Raises ValueError if there are too many."""
        if not isinstance(value, Mapping | list | tuple | Inert):
            plain = isinstance(value, bool | float | str | Named) or _is_short_integer(value)
            return (value if plain else None), 1
        if id(value) not in self._done:
            self._done[id(value)] = None, 1  # for a value within itself
            if depth < _MAX_DEPTH:
                parts = attributes(value) if isinstance(value, Inert) else value
                self._allowance.spend(len(parts))
                self._done[id(value)] = self._copy(parts, depth + 1)
        return self._done[id(value)]

    def _copy(
        self, parts: Mapping[Any, Any] | list[Any] | tuple[Any, ...], depth: int
    ) -> tuple[Any, int]:
        copy: Any
        if isinstance(parts, Mapping):
            named = {
                key: self.of(part, depth)
                for key, part in parts.items()
                if isinstance(key, str) or _is_short_integer(key)
            }
            pairs = list(named.values())
            copy = {key: part for key, (part, _) in named.items()}
        else:
            pairs = [self.of(part, depth) for part in parts]
            copy = [part for part, _ in pairs]
            copy = tuple(copy) if isinstance(parts, tuple) else copy
        count = 1 + sum(words for _, words in pairs)
        return (copy, count) if count <= _MAX_WORDS or depth == 1 else (None, 1)


def _is_short_integer(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 1 << 63


def _arguments(contents: Mapping[str, Any], path: Path, beside: bool) -> TrainingRecord:
    """The arguments of the run alone."""
    for key in _KEYS:
        if arguments := _flat(contents.get(key)):
            return TrainingRecord(arguments, f"{key} in {path.name}")
    meta = attributes(contents.get("meta"))
    text = meta.get("cfg", meta.get("config"))
    if isinstance(text, str) and (arguments := _flat(_literals(text))):
        return TrainingRecord(arguments, f"meta.cfg in {path.name}")
    if not beside:
        return NO_RECORD
    folder = path.parent
    lightning = folder.parent / "hparams.yaml" if folder.name == "checkpoints" else folder
    for file in (folder / "args.yaml", folder / "hparams.yaml", lightning):
        if not file.is_file():
            continue
        try:
            contents_of_file = yaml.load(read_regular(file, limit=MAX_CONFIG_BYTES), _Loader)
        except Exception:  # for a value that is not of its tag, PyYAML raises anything
            return TrainingRecord({}, "", unread=file.name)
        if arguments := _flat(contents_of_file):
            return TrainingRecord(arguments, file.name)
    return NO_RECORD


def _flat(value: object) -> dict[str, Any]:
    """The named values at every level, the outermost of each name."""
    flat: dict[str, Any] = {}
    level, seen = [value], set[int]()  # a file can hold a mapping within itself
    for _ in range(_DEPTH):
        inner: list[object] = []
        for each in level:
            if id(each) in seen:
                continue
            seen.add(id(each))
            for name, value in attributes(each).items():
                flat[name] = value if flat.get(name) is None else flat[name]
                if "teacher" not in name:  # another network, which this one was distilled from
                    inner.append(value)
        level = inner
    return {} if _FACTS.isdisjoint(flat) else flat


class _Loader(yaml.SafeLoader):
    """Without ``<<``: it copies mappings into each other, so a short file could take all memory."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave ``<<`` in place, which then is refused as a key."""


def _literals(text: str) -> dict[str, Any]:
    """The values that a config in Python assigns, as far as they are literals.

    A call such as ``dict(type='HSwish')`` counts as a mapping of its keywords.
    """
    if len(text) > MAX_CONFIG_BYTES:
        return {}
    try:
        with warnings.catch_warnings(action="ignore"):
            statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    assigned: dict[str, Any] = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            assigned[statement.targets[0].id] = _literal(statement.value)
    return assigned


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return {word.arg: _literal(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        return dict(_items(node))
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _literal(node.operand) if isinstance(node.operand, ast.Constant) else None
        return -number if isinstance(number, int | float) else None
    return node.value if isinstance(node, ast.Constant) else None


def _items(node: ast.Dict) -> Iterator[tuple[str, Any]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value, _literal(value)
