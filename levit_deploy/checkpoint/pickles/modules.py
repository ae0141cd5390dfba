"""The state dict of a module that was saved whole, and the facts that only its objects state."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor, nn

from levit_deploy.checkpoint.pickles.allowance import Allowance
from levit_deploy.checkpoint.pickles.inert import Inert

_PARTS = ("_parameters", "_buffers", "_modules")
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class ModuleFacts:
    """A module of a network: the dotted name of its class, and its plain attributes by name.

    ``settings`` are numbers, strings, bools and tuples of these, such as a BatchNorm's ``eps``.
    """

    class_name: str
    settings: Mapping[str, object]


Modules = Mapping[str, ModuleFacts]  # by dotted path, with '' for the whole network


def is_module(value: object) -> TypeGuard[Inert]:
    """Whether an object of a pickle is a torch module."""
    return (
        isinstance(value, Inert)
        and isinstance(value.state, dict)
        and all(isinstance(value.state.get(part), dict) for part in _PARTS)
    )


def state_of_pickled(module: Inert, allowance: Allowance) -> dict[str, Tensor]:
    """Return the state dict of a pickled module, as its ``state_dict()`` would have it.

    Raises ValueError if there is no end of its modules.
    """
    state: dict[str, Tensor] = {}
    for path, part in _walk(module, allowance):
        passing = part.state.get("_non_persistent_buffers_set")
        left_out = passing if isinstance(passing, set) else set()
        buffers = {
            name: tensor for name, tensor in part.state["_buffers"].items() if name not in left_out
        }
        for name, tensor in (part.state["_parameters"] | buffers).items():
            if tensor is not None:
                state[_join(path, name)] = tensor
    return state


def modules_of_pickled(module: Inert, allowance: Allowance) -> Modules:
    """Return the facts of a pickled module and of every module in it.

    Raises ValueError if there is no end of them.
    """
    return {
        path: ModuleFacts(part.class_name, _plain(part.state))
        for path, part in _walk(module, allowance)
    }


def modules_of(network: nn.Module) -> Modules:
    """Return the facts of a live network and of every module in it."""
    return {
        path: ModuleFacts(f"{type(part).__module__}.{type(part).__qualname__}", _plain(vars(part)))
        for path, part in network.named_modules(remove_duplicate=False)
    }


def below(modules: Modules, prefix: str) -> Modules:
    """The modules whose paths begin with ``prefix``, by the rest of their paths."""
    return {
        path.removeprefix(prefix): module
        for path, module in modules.items()
        if path.startswith(prefix)
    }


def _walk(module: Inert, allowance: Allowance) -> Iterator[tuple[str, Inert]]:
    """Yield the module and all below it with their paths, in torch's order."""
    waiting = [("", module)]
    while waiting:
        path, part = waiting.pop()
        for names in (part.state, *(part.state[kind] for kind in _PARTS)):
            if not all(isinstance(name, str) for name in names):
                raise ValueError("its network has a name that is no text")
            allowance.spend(len(names) + sum(len(path) + len(name) for name in names) // 100)
        yield path, part
        children = [
            (_join(path, name), child)
            for name, child in part.state["_modules"].items()
            if is_module(child)
        ]
        waiting += reversed(children)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in attributes.items()
        if not name.startswith("_") and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) <= 8 and all(isinstance(part, _PLAIN) for part in value)
    return isinstance(value, _PLAIN)
