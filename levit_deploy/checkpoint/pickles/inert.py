"""Stand-ins for the objects that a pickle names: they keep what they were given, and do nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that a pickle names, by its dotted name. It is never imported."""

    name: str


@dataclass(eq=False, repr=False, kw_only=True, slots=True)
class Inert:
    """An object that a pickle describes, of a class that is never imported.

    Attributes:
        class_name: The dotted name of its class, or of the function that was to make it.
        arguments: What that class or function was to be called with.
        state: What its attributes were to be, in most cases a dict. None if there are none.
        items: What a subclass of dict holds.
        elements: What a subclass of list, or another collection, holds.
    """

    class_name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.class_name}>"  # what it keeps may have no end


def attributes(value: object) -> Mapping[str, Any]:
    """Return the named values of a mapping, a namespace or another object, and {} for the rest.

    An item of a dict's subclass comes before an attribute of the same name.
    """
    if isinstance(value, Mapping):
        return _named(value)
    if not isinstance(value, Inert):
        return {}
    parts = [*value.arguments[:1], value.state, value.items]  # a copied dict is an argument
    if isinstance(value.state, tuple) and len(value.state) == 2:  # __dict__ and __slots__
        parts[-2:-1] = value.state
    return {key: part[key] for part in parts if isinstance(part, Mapping) for key in _named(part)}


def _named(mapping: Mapping[Any, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in mapping.items() if isinstance(key, str)}
