"""Find the one state dict in a file's contents, under any wrappers."""

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from levit_deploy.errors import CheckpointError, UsageError

# The keys of training code for the trained weights, and for their moving average.
PLAIN_KEYS = ("model", "state_dict", "model_state", "model_state_dict", "module")
EMA_KEY = re.compile(r"(.+_)?(ema|swa|averaged?)(_.+)?")
MAX_DEPTH = 8  # of wrappers in wrappers

# The prefixes of wrappers: DataParallel, torch.compile, Lightning, transformers' timm.
PREFIXES = ("module.", "_orig_mod.", "model.", "timm_model.")

States = dict[str, dict[str, Tensor]]  # by kind, or by dotted key in the file


def find_state(
    contents: Mapping[str, Any], weights: str | None, path: Path
) -> tuple[str, dict[str, Tensor]]:
    """Return the kind of weights found, 'model' or 'ema', and the tensors by bare name.

    ``weights`` chooses between a training run's plain weights ('model') and their moving average
    ('ema'). It may be None if there is no choice to make. Raises CheckpointError if there is no
    state dict or the choice is open, and UsageError if the file lacks the ``weights`` chosen.
    """
    candidates: dict[str, States] = {"model": {}, "ema": {}, "other": {}}
    for kind, key, state in _states(contents, "model", (), set()):
        with suppress(CheckpointError) if kind == "other" else nullcontext():
            candidates[kind][key] = _bare(state, path)
    states = {kind: _only(candidates[kind], path) for kind in ("model", "ema") if candidates[kind]}
    if not states:
        raise CheckpointError(
            f"{path} holds {_some(contents)}, and no state dict among them. Expected tensors by "
            "name and nothing else, or a dict with them under 'model'. Save "
            "{'model': model.state_dict()}."
        )
    if len(states) == 2 and states["model"].keys().isdisjoint(states["ema"]):
        del states["ema"]  # an average of something else, such as a count
    _refuse_rivals(states, candidates["other"], path)
    if weights is None:
        weights = _unambiguous(states, path)
    elif weights not in states:
        raise UsageError(
            f"--weights {weights} was given, but {path} holds only {', '.join(states)}. Leave the "
            "option out."
        )
    return weights, states[weights]


def _states(
    contents: Mapping[str, Any], kind: str, keys: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """Yield every state dict: its kind of weights, its dotted key, and the tensors.

    The kind is 'other' under a key that no wrapper uses. ``seen`` holds the ids of dicts already
    visited, as a pickle can contain itself.
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
    """Return the one set of weights of a kind. Several sets must be equal."""
    (first, state), *others = candidates.items()
    for key, other in others:
        if not _equal(state, other):
            raise CheckpointError(
                f"{path} holds different weights under {first!r} and {key!r}. Expected one set. "
                "Save the one you mean alone."
            )
    return state


def _refuse_rivals(states: States, others: States, path: Path) -> None:
    """Raise CheckpointError for other weights with the same names under an unknown key."""
    for key, other in others.items():
        rivals = [state for state in states.values() if state.keys() == other.keys()]
        if rivals and not any(_equal(state, other) for state in rivals):
            raise CheckpointError(
                f"{path} holds weights with the same names under {key!r}, too, and they differ. "
                "Expected one set. Save the one you mean alone."
            )


def _unambiguous(states: States, path: Path) -> str:
    """Return the kind of the only weights. A moving average must equal the trained ones."""
    if len(states) == 2 and not _equal(states["model"], states["ema"]):
        raise CheckpointError(
            f"{path} holds the trained weights and their moving average, and they differ. Expected "
            "one set. Choose --weights model (evaluated by the official code) or --weights ema "
            "(loaded by timm)."
        )
    return "model" if "model" in states else "ema"


def _bare(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Take the prefixes of wrappers off the names.

    ``n_averaged``, torch's count beside an averaged model's weights, is left out.
    """
    bare: dict[str, Tensor] = {}
    for key, tensor in state.items():
        _require_ordinary(key, tensor)
        name = ".".join(part for part in key.split(".") if part != "_orig_mod")
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in bare:
            raise CheckpointError(
                f"{path} holds {name} twice, one of them as {key}. Expected each name once, "
                f"without prefixes such as {PREFIXES[0]!r}. Save the state dict of one module "
                "alone."
            )
        bare[name] = tensor
    if "n_averaged" in bare and bare["n_averaged"].dim() == 0:
        del bare["n_averaged"]
    return bare


def _require_ordinary(key: str, tensor: Tensor) -> None:
    """Raise CheckpointError for anything but a plain array of numbers, each of them stored."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(
            f"{key} is stored as {tensor.dtype}, {tensor.layout}, on {tensor.device}. Expected an "
            "ordinary tensor. A quantized or sparse checkpoint has lost its original weights. Give "
            "the checkpoint it was made from."
        )
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:
        raise CheckpointError(
            f"{key} has the shape {tuple(tensor.shape)}, but only {stored} stored numbers. "
            "Expected every number to be stored. Save the state dict of a trained model, unchanged."
        )


def _is_state(contents: Mapping[str, Any]) -> TypeGuard[Mapping[str, Tensor]]:
    return bool(contents) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in contents.items()
    )


def _equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether the numbers are equal. Averages are sometimes kept in another precision."""
    return one.keys() == two.keys() and all(
        torch.equal(one[key].to(two[key].dtype), two[key]) for key in one
    )


def _some(contents: Mapping[str, Any]) -> str:
    names = [repr(key) for key in list(contents)[:4]]
    return (", ".join(names) + (", ..." if len(contents) > 4 else "")) or "nothing"
