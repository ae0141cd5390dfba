"""Find the one state dict in a file's contents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from levit_deploy.errors import CheckpointError, UsageError


def find_state(
    contents: Mapping[str, Any], weights: str | None, path: Path
) -> tuple[str, dict[str, Tensor]]:
    """Return which weights were found, 'model' or 'ema', and the tensors by name.

    ``weights`` chooses between a training run's plain weights ('model') and their moving average
    ('ema'); it may be None where there is no choice to make. Raises CheckpointError where there
    is no state dict or the choice is open, UsageError where ``weights`` names what is not there.
    """
    if _is_state(contents):
        states = {"model": dict(contents)}
    else:
        keys = {"model": "model", "ema": "model_ema"}
        states = {
            name: dict(contents[key])
            for name, key in keys.items()
            if isinstance(contents.get(key), Mapping) and _is_state(contents[key])
        }
    if not states:
        raise CheckpointError(
            f"{path} holds {_some(contents)}, and no state dict among them. Expected tensors by "
            "name, or a dict with them under 'model'. Save {'model': model.state_dict()}."
        )
    if weights is not None:
        if weights not in states:
            raise UsageError(
                f"--weights {weights} was asked for, but {path} holds only {', '.join(states)}. "
                "Leave the option out."
            )
        return weights, states[weights]
    if len(states) == 2 and not _equal(states["model"], states["ema"]):
        raise CheckpointError(
            f"{path} holds the trained weights and their moving average, and they differ. Expected "
            "one set. Choose with --weights model (what the official code evaluates) or "
            "--weights ema (what timm loads)."
        )
    return next(iter(states.items()))


def _is_state(contents: Mapping[str, Any]) -> TypeGuard[Mapping[str, Tensor]]:
    return bool(contents) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in contents.items()
    )


def _equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether the numbers are the same; averages are sometimes kept in another precision."""
    return one.keys() == two.keys() and all(
        torch.equal(one[key].to(two[key].dtype), two[key]) for key in one
    )


def _some(contents: Mapping[str, Any]) -> str:
    names = [repr(key) for key in list(contents)[:4]]
    return (", ".join(names) + (", ..." if len(contents) > 4 else "")) or "nothing"
