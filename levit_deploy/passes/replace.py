"""Copy a network without its tensors, and replace every module of one kind in the copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import nn

from levit_deploy.model import LeViT

Module = TypeVar("Module", bound=nn.Module)
Leaf = TypeVar("Leaf", bound=nn.Module)


def copied(module: Module) -> Module:
    """Return a copy of a module and of all inside it, which shares their tensors.

    To copy the weights as well, once a pass, took a sixth of an export. So a module of the copy may
    be given other tensors, or be cast, but no tensor may be changed in place.
    """
    return _copied(module, {})


def _copied(module: Module, made: dict[int, Any]) -> Module:
    """``made`` has the copies so far, by the id of the module, as ``copy.deepcopy`` has it."""
    if (known := made.get(id(module))) is not None:
        return cast(Module, known)
    twin = made[id(module)] = object.__new__(type(module))
    # a parameter of its own, as a cast changes that, and not the module
    tensors: dict[str, Callable[[Any], Any]] = {
        "_modules": lambda child: _copied(child, made),
        "_parameters": lambda own: nn.Parameter(own.detach(), own.requires_grad),
        "_buffers": lambda own: own,
    }
    for name, value in vars(module).items():
        if (copy_of := tensors.get(name)) is not None:
            value = {key: own if own is None else copy_of(own) for key, own in value.items()}
        elif isinstance(value, dict | list | set):  # hooks, mostly empty
            value = copy.deepcopy(value, made) if value else type(value)()
        vars(twin)[name] = value
    return twin


def replace_modules(
    model: LeViT,
    kind: type[Leaf],
    replacement: Callable[[Leaf, str], nn.Module],
) -> LeViT:
    """Return a copy of ``model`` with every ``kind`` replaced, at any depth.

    ``replacement`` gets the copied module and its dotted name, and returns the new module. It may
    change the copied module, but not its tensors, which are those of ``model``.
    """
    model = copied(model)
    leaves = [(name, leaf) for name, leaf in model.named_modules() if isinstance(leaf, kind)]
    for name, leaf in leaves:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, replacement(leaf, name))
    return model
