"""Replace every module of one kind in a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from levit_deploy.model import LeViT

Leaf = TypeVar("Leaf", bound=nn.Module)


def replace_modules(
    model: LeViT,
    kind: type[Leaf],
    replacement: Callable[[Leaf, str], nn.Module],
) -> LeViT:
    """Return a deep copy of ``model`` with every ``kind`` replaced, at any depth.

    ``replacement`` gets the copied module and its dotted name, and returns the new module.
    """
    model = copy.deepcopy(model)
    leaves = [(name, leaf) for name, leaf in model.named_modules() if isinstance(leaf, kind)]
    for name, leaf in leaves:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, replacement(leaf, name))
    return model
