"""Make plain dicts of the objects in a pickle that hold tensors, such as modules saved whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from torch import Tensor

from levit_deploy.checkpoint.pickles.allowance import Allowance
from levit_deploy.checkpoint.pickles.inert import Inert, attributes
from levit_deploy.checkpoint.pickles.modules import (
    ModuleFacts,
    Modules,
    is_module,
    modules_of_pickled,
    state_of_pickled,
)
from levit_deploy.checkpoint.pickles.stored import Storage

_FEW = 16  # arguments of a call that makes a tensor
MAX_DEPTH = 64  # of collections and objects in each other


class Plain(NamedTuple):
    """The contents of a pickle.

    ``value`` has a state dict in place of each module, and a dict in place of any other object
    that holds tensors. ``modules`` has the facts of the modules. ``opaque`` names a weight that
    only code could make a tensor of, and the class of this code, or is None.
    """

    value: Any
    modules: Modules
    opaque: tuple[str, str] | None


def plain(value: object, allowance: Allowance) -> Plain:
    """Return the plain contents of a pickle. Raises ValueError if they have no end."""
    making = _Making(allowance)
    contents, _ = making.plain(value, 0)
    # two networks that contradict each other in a module say nothing of it
    modules = {path: facts for path, facts in making.facts.items() if facts is not None}
    return Plain(contents, modules, making.opaque)


class _Making:
    def __init__(self, allowance: Allowance) -> None:
        self.facts: dict[str, ModuleFacts | None] = {}
        self.opaque: tuple[str, str] | None = None
        self._allowance = allowance
        self._done: dict[int, tuple[Any, bool]] = {}

    def plain(self, value: Any, depth: int) -> tuple[Any, bool]:
        """Return the plain value, and whether there are tensors in it."""
        if not isinstance(value, Mapping | list | tuple | Inert) or depth == MAX_DEPTH:
            return value, isinstance(value, Tensor)
        if id(value) not in self._done:
            self._done[id(value)] = value, False  # for an object that holds itself
            self._done[id(value)] = self._made(value, depth)
        return self._done[id(value)]

    def _made(self, value: Any, depth: int) -> tuple[Any, bool]:
        if isinstance(value, list | tuple):
            self._allowance.spend(len(value))
            elements = [self.plain(part, depth + 1) for part in value]
            holds_tensors = any(holds for _, holds in elements)
            return [part for part, _ in elements] if holds_tensors else value, holds_tensors
        if is_module(value):
            state = state_of_pickled(value, self._allowance)
            if state:
                self._note(modules_of_pickled(value, self._allowance))
            return state, bool(state)
        if isinstance(value, Inert):
            self._allowance.spend(sum(map(_size, (value.state, value.items, *value.arguments[:1]))))
        else:
            self._allowance.spend(len(value))
            self._find_opaque(value)
        values = value if isinstance(value, Mapping) else attributes(value)
        parts = {key: self.plain(part, depth + 1) for key, part in values.items()}
        holds_tensors = any(holds for _, holds in parts.values())
        if isinstance(value, Mapping) or holds_tensors:
            return {key: part for key, (part, _) in parts.items()}, holds_tensors
        return value, False

    def _note(self, modules: Modules) -> None:
        for path, module in modules.items():
            self.facts[path] = module if self.facts.get(path, module) == module else None

    def _find_opaque(self, mapping: Mapping[Any, Any]) -> None:
        """Note a weight that is no tensor, in a dict of weights: their names have dots."""
        others = [(key, value) for key, value in mapping.items() if not isinstance(value, Tensor)]
        if others and all(isinstance(k, str) and "." in k and _is_opaque(v) for k, v in others):
            key, value = others[0]
            self.opaque = key, value.class_name


def _size(value: object) -> int:
    if isinstance(value, tuple):  # __dict__ and __slots__
        return sum(len(part) for part in value[:2] if isinstance(part, Mapping))
    return len(value) if isinstance(value, Mapping) else 0


def _is_opaque(value: object) -> bool:
    if not isinstance(value, Inert) or is_module(value):
        return False
    state = value.state.values() if isinstance(value.state, dict) else ()
    return _has_numbers(value.arguments) or _has_numbers(state)


def _has_numbers(values: Iterable[object]) -> bool:
    return any(isinstance(value, Tensor | Storage) for value in islice(values, _FEW))
