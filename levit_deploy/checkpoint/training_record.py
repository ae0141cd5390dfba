"""Find the record of a training run: the arguments that its code keeps with the weights.

- timm's ``train.py`` and the official ``main.py`` keep ``args`` in the checkpoint. timm writes them
  into ``args.yaml`` beside it, too.
- Lightning keeps ``hyper_parameters``, and its logger writes them into ``hparams.yaml``.
- mmengine keeps the text of its config, which is Python, in ``meta``.

Nothing of a record is run, and a record that cannot be read is none.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from levit_deploy.checkpoint.folder import MAX_CONFIG_BYTES
from levit_deploy.checkpoint.inert import attributes
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


@dataclass(frozen=True)
class TrainingRecord:
    """The arguments of a run by name, and their place in words.

    An argument within another counts under its own name, too, unless an outer one of that name has
    a value.
    """

    arguments: Mapping[str, Any]
    source: str


NO_RECORD = TrainingRecord({}, "")


def find_record(contents: Mapping[str, Any], path: Path, *, beside: bool = True) -> TrainingRecord:
    """Return the record in a checkpoint's contents, or else in a file ``beside`` the checkpoint."""
    record = _arguments(contents, path, beside)
    meta = attributes(contents.get("meta"))
    places = (contents, attributes(meta.get("dataset_meta")), meta)
    names = {key: place[key] for place in places for key in CLASS_NAMES if key in place}
    if not names:
        return record
    return TrainingRecord({**names, **record.arguments}, record.source or path.name)


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
        if arguments := _flat(_yaml(file)):
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


def _yaml(file: Path) -> object:
    try:
        return yaml.safe_load(read_regular(file, limit=MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def _literals(text: str) -> dict[str, Any]:
    """The values that a config in Python assigns, as far as they are literals.

    A call such as ``dict(type='HSwish')`` counts as a mapping of its keywords.
    """
    if len(text) > MAX_CONFIG_BYTES:
        return {}
    try:
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
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _items(node: ast.Dict) -> Iterator[tuple[str, Any]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value, _literal(value)
