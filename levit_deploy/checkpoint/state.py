"""Find the sets of a LeViT's weights in a file's contents: under any keys, behind any prefix."""

import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levit_deploy.checkpoint.families.recognise import begin_of_trunk, other_network
from levit_deploy.errors import CheckpointError, UsageError

MAX_DEPTH = 64  # of dicts in dicts
MAX_NAME = 1000  # characters: no network nests so deep
MAX_SETS = 64  # of weights in a file
MAX_SHARING = 4  # uses of a stored number by the tensors of a set, in the mean

# The keys and prefixes of training code for a network's weights, and for their moving average.
PLAIN_KEYS = ("model", "state_dict", "model_state", "model_state_dict", "module")
EMA_KEY = re.compile(r"(.+_)?(ema|swa|averaged?)(_.+)?")
# torch.compile, FSDP and activation checkpointing put these into names, at any place.
_MARKS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# DataParallel puts module into names. So does transformers' residual layer, for its inner part.
_RESIDUAL = re.compile(r"layers\.[0-9]{1,4}")

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """The tensors of one LeViT in a file, and those around it.

    Attributes:
        places: Where the file has them: the keys of the dicts and the parts of the prefix.
        kinds: 'model' for trained weights, 'ema' for a moving average. Equal ones are both.
        prefix: The part of every name before the family's own, without the marks of wrappers.
        prefix_in_file: The same with them.
        state: The tensors behind the prefix, without it.
        beside: The other tensors of their dict that belong to no set.
    """

    places: tuple[tuple[str, ...], ...]
    kinds: frozenset[str]
    prefix: str
    prefix_in_file: str
    state: State
    beside: State

    @property
    def kind(self) -> str:
        """'model', or 'ema' if they are only an average."""
        return "model" if "model" in self.kinds else "ema"

    @property
    def short_name(self) -> str:
        """The parts of the place that tell something."""
        return ".".join(_telling(self.places[0]))

    @property
    def names_of_places(self) -> set[str]:
        """Every name by which you can choose a place."""
        names = {self.prefix.rstrip(".")} - {""}
        for place in self.places:
            for parts in (place, _telling(place)):
                names |= {".".join(parts[i:]) for i in range(len(parts))}
        return names


@dataclass(frozen=True, kw_only=True)
class FoundWeights:
    """The set of weights to load.

    Attributes:
        name: 'model' or 'ema', or the name of their place.
        by_place: Whether their place was chosen, among the tensors around it, too.
        weights: The set.
        elsewhere: The tensors of the dicts without a set, by the dotted keys of the dict.
    """

    name: str
    by_place: bool
    weights: WeightSet
    elsewhere: tuple[tuple[str, State], ...]


def find_weights(contents: Mapping[str, Any], name: str | None, path: Path) -> FoundWeights:
    """Return the one set of a LeViT's weights in a file's contents.

    ``name`` chooses between several: 'model' or 'ema' for the trained weights or their moving
    average, else the name of their place. It may be None if there is no choice to make. Raises
    CheckpointError if there is no set or the choice is open, and UsageError if the file lacks the
    weights chosen.
    """
    sets: list[WeightSet] = []
    elsewhere: list[tuple[str, State]] = []
    for keys, tensors in _dicts(contents):
        in_dict = list(_sets(keys, tensors, contents, path))
        sets += in_dict
        if not in_dict:
            elsewhere.append((".".join(keys), tensors))
        if len(sets) > MAX_SETS:
            raise CheckpointError(
                f"{path} holds more than {MAX_SETS} sets of a LeViT's weights. Expected a few, "
                "such as student and teacher. Save the one you mean alone."
            )
    if not sets:
        raise _nothing_found(contents, elsewhere, path)
    # masks and quantized copies have the names of the weights, too
    ordinary = [weights for weights in sets if _problem(weights.state) is None]
    if not ordinary:
        raise CheckpointError(str(_problem(sets[0].state)))
    named = _named(_distinct(sorted(ordinary, key=lambda weights: weights.kind == "ema")))
    chosen, weights = _choose(named, name, path)
    return FoundWeights(
        name=chosen,
        by_place=name is not None and chosen in weights.names_of_places,
        weights=weights,
        elsewhere=tuple(elsewhere),
    )


def _dicts(contents: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], State]]:
    """Yield the tensors of every dict that has any, with the keys that lead to it, outer first.

    A pickle can contain itself, so every container is visited once.
    """
    containers: deque[tuple[tuple[str, ...], Any]] = deque([((), contents)])
    seen: set[int] = set()
    while containers:
        keys, container = containers.popleft()
        if id(container) in seen:
            continue
        seen.add(id(container))
        tensors: State = {}
        items = container.items() if isinstance(container, Mapping) else enumerate(container)
        for key, value in items:
            if isinstance(value, Tensor) and isinstance(key, str):
                tensors[key] = value
            elif isinstance(value, Mapping | list | tuple) and len(keys) < MAX_DEPTH:
                containers.append(((*keys, _key_text(key)), value))
        if tensors:
            yield keys, tensors


def _key_text(key: object) -> str:
    if isinstance(key, str):
        return key[:MAX_NAME]
    return str(key) if isinstance(key, int) and abs(key) < 10**9 else type(key).__name__


def _sets(
    keys: tuple[str, ...], tensors: State, contents: Mapping[str, Any], path: Path
) -> Iterator[WeightSet]:
    """Yield the sets of weights in one dict."""
    in_file: dict[str, str] = {}  # the prefixes, by those without marks
    for key in tensors:
        name = without_marks(key)
        begin = begin_of_trunk(name) if len(name) <= MAX_NAME else None
        if begin is not None and name[:begin] not in in_file:
            in_file[name[:begin]] = _prefix_in_file(key, name[:begin])
            if len(in_file) > MAX_SETS:
                break
    if not in_file:
        return
    longest_first = sorted(in_file, key=len, reverse=True)
    states: dict[str, State] = {prefix: {} for prefix in in_file}
    beside: State = {}
    for name, tensor in _each_once(tensors, path):
        prefix = next((prefix for prefix in longest_first if name.startswith(prefix)), None)
        if prefix is None:
            beside[name] = tensor
        else:
            states[prefix][name.removeprefix(prefix)] = tensor
    for prefix, state in states.items():
        place = (*keys, *prefix.split(".")[:-1])
        yield WeightSet(
            places=(place,),
            kinds=frozenset(["ema" if _is_average(place, contents) else "model"]),
            prefix=prefix,
            prefix_in_file=in_file[prefix],
            state=state,
            beside=beside,
        )


def _prefix_in_file(key: str, prefix: str) -> str:
    """The longest beginning of a name that is ``prefix`` without the marks of wrappers."""
    parts = key.split(".")[:-1]
    begins = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
    return next((f"{begin}." for begin in begins if without_marks(begin) == prefix[:-1]), "")


def _each_once(tensors: State, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors under their names without marks."""
    names: set[str] = set()
    for key, tensor in tensors.items():
        name = without_marks(key)
        if name in names:
            raise CheckpointError(
                f"{path} holds {name} twice, one of them as {key}. Expected each name once, "
                "whether or not a wrapper's mark such as 'module.' is in it. Save the state dict "
                "of one module alone."
            )
        names.add(name)
        yield name, tensor


def without_marks(key: str) -> str:
    """A name without the marks of wrappers."""
    if "module" not in key and "_orig_mod" not in key:
        return key
    parts: list[str] = []
    for part in key.split("."):
        wraps = part == "module" and not _RESIDUAL.fullmatch(".".join(parts[-2:]))
        if part not in _MARKS and not wraps:
            parts.append(part)
    return ".".join(parts)


def _is_average(place: tuple[str, ...], contents: Mapping[str, Any]) -> bool:
    """Whether a moving average is in this place.

    Lightning's WeightAveraging and mmengine's EMAHook save the average as ``state_dict``, and the
    trained weights under another key (``on_save_checkpoint``, ``before_save_checkpoint``).
    """
    mmengine = "message_hub" in contents
    trained = {"current_model_state", *(["ema_state_dict"] if mmengine else [])} & contents.keys()
    if trained and place[:1] in [("state_dict",), *((key,) for key in trained)]:
        return place[0] == "state_dict"
    return any(EMA_KEY.fullmatch(part) for part in place)


def _distinct(sets: Sequence[WeightSet]) -> list[WeightSet]:
    """Merge the sets that are equal."""
    distinct: list[WeightSet] = []
    for weights in sets:
        for i, other in enumerate(distinct):
            if _equal(other.state, weights.state):
                distinct[i] = replace(
                    other,
                    places=(*other.places, *weights.places),
                    kinds=other.kinds | weights.kinds,
                )
                break
        else:
            distinct.append(weights)
    return distinct


def _named(sets: Sequence[WeightSet]) -> dict[str, WeightSet]:
    """The sets by name: 'model' and 'ema' if that tells them apart, else by their places."""
    if len({weights.kind for weights in sets}) == len(sets):
        return {weights.kind: weights for weights in sets}
    places = [weights.places[0] for weights in sets]
    shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False))))
    short = [".".join(_telling(place[shared:])) for place in places]
    counts = Counter(short)
    return {
        name if counts[name] == 1 else ".".join(place) or "model": weights
        for name, place, weights in zip(short, places, sets, strict=True)
    }


def _telling(place: tuple[str, ...]) -> tuple[str, ...]:
    """The parts of a place that tell something, or all of them if none does."""
    return tuple(part for part in place if part not in PLAIN_KEYS) or place or ("model",)


def _choose(named: Mapping[str, WeightSet], name: str | None, path: Path) -> tuple[str, WeightSet]:
    """Return the set of this name, or the only one if no name is given."""
    if name is None:
        if len(named) > 1:
            raise _open_choice(named, path)
        return next(iter(named.items()))
    wanted = name.rstrip(".")
    if wanted in named:
        return wanted, named[wanted]
    fitting = [
        weights
        for weights in named.values()
        if wanted in weights.kinds or wanted in weights.names_of_places
    ]
    if len(fitting) == 1:
        return wanted, fitting[0]
    # The module around a set names it, too: teacher for teacher.net.
    inside = [
        held
        for held, weights in named.items()
        if any(f".{wanted}." in f".{'.'.join(place)}." for place in weights.places)
    ]
    if not fitting and len(inside) == 1:
        return inside[0], named[inside[0]]
    one = "Leave the option out, or give its name"
    advice = "Give one of these names" if len(named) > 1 else one
    raise UsageError(
        f"--weights {name} was given, but {path} holds a LeViT's weights only as "
        f"{_places(named)}. {advice}."
    )


def _open_choice(named: Mapping[str, WeightSet], path: Path) -> CheckpointError:
    listed = _places(named)
    if named.keys() == {"model", "ema"}:
        return CheckpointError(
            f"{path} holds the trained weights and their moving average, and they differ: "
            f"{listed}. Expected one set. Choose --weights model (evaluated by the official code) "
            "or --weights ema (loaded by timm)."
        )
    return CheckpointError(
        f"{path} holds {len(named)} sets of a LeViT's weights, and they differ: {listed}. Expected "
        f"one set. Choose one by its name, such as --weights {next(iter(named))}."
    )


def _places(named: Mapping[str, WeightSet]) -> str:
    """The names, each with its place if that is another."""
    places = {name: ".".join(weights.places[0]) for name, weights in named.items()}
    *first, last = (
        name if place in (name, "") else f"{name} (under {place})" for name, place in places.items()
    )
    return f"{', '.join(first)} and {last}" if first else last


def _problem(state: State) -> str | None:
    """Tell why tensors are not plain arrays of numbers with each of them stored, if so."""
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            return (
                f"{key} is stored as {tensor.dtype}, {tensor.layout}, on {tensor.device}. Expected "
                "an ordinary tensor. A quantized or sparse checkpoint has lost its original "
                "weights. Give the checkpoint it was made from."
            )
        stored = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.numel() > stored:
            return (
                f"{key} has the shape {tuple(tensor.shape)}, but only {stored} stored numbers. "
                "Expected every number to be stored. Save the state dict of a trained model, "
                "unchanged."
            )
    used = sum(tensor.nbytes for tensor in state.values())
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in state.values()}
    if used > MAX_SHARING * sum(each.untyped_storage().nbytes() for each in storages.values()):
        return (
            f"{next(iter(state))} and the tensors beside it are views of the same few numbers. "
            "Expected numbers of their own. Save the state dict of a trained model, unchanged."
        )
    if state and not any(tensor.is_floating_point() for tensor in state.values()):
        first = next(iter(state))
        return (
            f"{first} is stored as {state[first].dtype}, and no tensor beside it as floating-point "
            "numbers. Expected a LeViT's weights. Give the checkpoint that these were made from."
        )
    return None


def _equal(one: State, two: State) -> bool:
    """Whether the numbers are equal. Averages are sometimes kept in another precision."""
    return one.keys() == two.keys() and all(
        torch.equal(one[key].to(two[key].dtype), two[key]) for key in one
    )


def _nothing_found(
    contents: Mapping[str, Any], dicts: Sequence[tuple[str, State]], path: Path
) -> CheckpointError:
    if not dicts:
        return CheckpointError(
            f"{path} holds {_some(contents)}, and no state dict among them. Expected a LeViT's "
            "tensors by name, under any key. Save {'model': model.state_dict()}."
        )
    place, tensors = max(dicts, key=lambda each: len(each[1]))
    return other_network(path, place, tensors)


def _some(contents: Mapping[str, Any]) -> str:
    names = [repr(key)[:80] for key in list(contents)[:4]]
    return (", ".join(names) + (", ..." if len(contents) > 4 else "")) or "nothing"
