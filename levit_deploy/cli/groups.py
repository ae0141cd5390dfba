"""Groups of options: a dataclass that several commands take, with options for fields.

A field annotated with a ``typer.Option`` is an option. Another one keeps its default.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Annotated, Any, get_origin


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: each group among its parameters gives way to its fields."""
    parameters: list[inspect.Parameter] = []
    groups = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group = parameter.annotation
        if isinstance(group, type) and is_dataclass(group):
            fields = inspect.signature(group, eval_str=True).parameters.values()
            options = [field for field in fields if get_origin(field.annotation) is Annotated]
            groups[parameter.name] = group, [option.name for option in options]
            parameters += options
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def with_groups(**given: Any) -> None:
        made = {
            name: group(**{option: given.pop(option) for option in options})
            for name, (group, options) in groups.items()
        }
        command(**given, **made)

    with_groups.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_groups
