"""Find the one state dict in a file's contents, whatever it is wrapped in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from levit_deploy.errors import CheckpointError, UsageError

# Where training code keeps the weights it trains, and their moving average.
PLAIN_KEYS = ("model", "state_dict", "model_state", "model_state_dict", "module")
EMA_KEY = re.compile(r"(.+_)?(ema|swa|averaged?)(_.+)?")
MAX_DEPTH = 8  # of wrappers in wrappers

# What wrappers put before every name: DataParallel, torch.compile, Lightning, transformers' timm.
PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.")

States = dict[str, dict[str, Tensor]]  # by the dotted key they were found under


def find_state(
    contents: Mapping[str, Any], weights: str | None, path: Path
) -> tuple[str, dict[str, Tensor]]:
    """Return which weights were found, 'model' or 'ema', and the tensors by bare name.

    ``weights`` chooses between a training run's plain weights ('model') and their moving average
    ('ema'); it may be None where there is no choice to make. Raises CheckpointError where there
    is no state dict or the choice is open, UsageError where ``weights`` names what is not there.
    """
    found: dict[str, States] = {"model": {}, "ema": {}, "other": {}}
    for kind, key, state in _states(contents, "model", (), set()):
        with suppress(CheckpointError) if kind == "other" else nullcontext():
            found[kind][key] = _bare(state, path)
    states = {kind: _only(found[kind], path) for kind in ("model", "ema") if found[kind]}
    if not states:
        raise CheckpointError(
            f"{path} holds {_some(contents)}, and no state dict among them. Expected tensors by "
            "name and nothing else, or a dict with them under 'model'. Save "
            "{'model': model.state_dict()}."
        )
    if len(states) == 2 and states["model"].keys().isdisjoint(states["ema"]):
        del states["ema"]  # an average of something else, such as a count
    for key, other in found["other"].items():
        rivals = [state for state in states.values() if state.keys() == other.keys()]
        if rivals and not any(_equal(state, other) for state in rivals):
            raise CheckpointError(
                f"{path} holds weights with the same names under {key!r}, too, and they differ. "
                "Expected one set. Save the one you mean alone."
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
    kind = "model" if "model" in states else "ema"
    return kind, states[kind]


def _states(
    contents: Mapping[str, Any], kind: str, keys: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """Every state dict: what kind of weights, under which keys, the tensors.

    The kind is 'other' under keys that are no wrapper's; ``seen`` are the dicts looked into
    already, as a pickle can hold itself.
    """
    if _is_state(contents):
        yield kind, ".".join(keys), dict(contents)
        return
    if len(keys) == MAX_DEPTH:
        return
    seen.add(id(contents))
    for key, value in contents.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or id(value) in seen:
            continue
        if EMA_KEY.fullmatch(key):
            yield from _states(value, "ema", (*keys, key), seen)
        elif key in PLAIN_KEYS:
            yield from _states(value, kind, (*keys, key), seen)
        elif _is_state(value):
            yield "other", ".".join((*keys, key)), dict(value)


def _only(candidates: States, path: Path) -> dict[str, Tensor]:
    """The one set of weights of a kind; several must be the same."""
    (first, state), *others = candidates.items()
    for key, other in others:
        if not _equal(state, other):
            raise CheckpointError(
                f"{path} holds different weights under {first!r} and {key!r}. Expected one set. "
                "Save the one you mean alone."
            )
    return state


def _bare(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors without what wrappers put into their names.

    ``n_averaged`` is torch's own count beside an averaged model's weights.
    """
    bare: dict[str, Tensor] = {}
    for key, tensor in state.items():
        _require_ordinary(key, tensor)
        name = ".".join(part for part in key.split(".") if part != "_orig_mod")
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in bare:
            raise CheckpointError(
                f"{path} holds {name} twice, once of them as {key}. Expected each name once when "
                f"prefixes such as {PREFIXES[0]!r} are taken off. Save the state dict of one "
                "module alone."
            )
        bare[name] = tensor
    if "n_averaged" in bare and bare["n_averaged"].dim() == 0:
        del bare["n_averaged"]
    return bare


def _require_ordinary(key: str, tensor: Tensor) -> None:
    """Raise CheckpointError for what is no plain array of numbers, each stored once."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(
            f"{key} is stored as {tensor.dtype}, {tensor.layout}, on {tensor.device}. Expected an "
            "ordinary tensor. A quantized or sparse checkpoint has lost what this tool needs; give "
            "the one it was made from."
        )
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:
        raise CheckpointError(
            f"{key} has the shape {tuple(tensor.shape)}, but {stored} numbers are stored for it. "
            "Expected each number to be stored. Save the state dict of a trained model, unchanged."
        )


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
