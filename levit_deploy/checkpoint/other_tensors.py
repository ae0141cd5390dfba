"""Account for the tensors beside a LeViT's own: none that could count is left out in silence."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from levit_deploy.checkpoint.families.recognise import Reader
from levit_deploy.checkpoint.given import Selection
from levit_deploy.checkpoint.head_forms import may_be_head
from levit_deploy.checkpoint.state import MAX_NAME, FoundWeights, State, without_marks
from levit_deploy.checkpoint.strict import sides
from levit_deploy.choices import ACTIVATIONS
from levit_deploy.errors import CheckpointError, UsageError
from levit_deploy.text import listed

_LEAVES = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}

# Last parts of names, each of one number that no network computes with.
_COUNTS = {
    "total_ops": "counted by thop",  # thop/profile.py
    "total_params": "counted by thop",
    "n_averaged": "counted by torch's AveragedModel",  # torch/optim/swa_utils.py
    "steps": "counted by mmengine's averaged model",  # mmengine/model/averaged_model.py
    "step": "counted by ema_pytorch",  # ema_pytorch/ema_pytorch.py
    "initted": "kept by ema_pytorch",
    "decay": "kept by LitEma",  # ldm/modules/ema.py
    "num_updates": "counted by LitEma",
}
# States of torchmetrics: add_state in its classification, regression and aggregation.
_METRIC = {"tp", "fp", "tn", "fn", "confmat", "correct", "total", "measure", "measures", "preds"}
_METRIC |= {"target", "mean_value", "sum_value", "min_value", "max_value", "sum_squared_error"}
_METRIC |= {"sum_abs_error", "sum_error", "num_obs"}
# the slopes of a PReLU, at the places of activations in timm, the official code and mmpretrain
_PRELU = re.compile(r"(.*\.)?(act[0-9]?|activation|proj\.0|m\.1)\.weight")


@dataclass(frozen=True, kw_only=True)
class OwnTensors:
    """The tensors that a LeViT computes with.

    Attributes:
        state: Those of the trunk and of the family's heads, by bare name.
        head: Those of the module that was named as the head, by their names in it.
        names_in_file: All of them, by the name without wrappers' marks and prefix.
        passed_over: The tensors left out, with the reasons, in words.
    """

    state: State
    head: State
    names_in_file: State
    passed_over: tuple[str, ...]


def own_tensors(
    found: FoundWeights,
    reader: Reader,
    selection: Selection,
    path: Path,
) -> OwnTensors:
    """Separate a LeViT's own tensors from those around them.

    ``selection`` has the patterns of names to leave out, as in ``fnmatch``, and the module that is
    the head in place of the family's. Tensors of a known kind are passed over: counts, and the
    states of losses and metrics.

    Raises CheckpointError for any other tensor that is not the LeViT's. Raises UsageError for a
    pattern or a module that fits no tensor, and for a pattern that takes what the network needs.
    """
    prefix = found.weights.prefix
    trunk, others = _split(found, reader)
    # its bias may look like the class weights of a loss
    named = _begins(selection.head_name, prefix) if selection.head_name is not None else ()
    left_out: dict[str, list[str]] = {}
    for name, tensor in list(others.items()):
        if not name.startswith(named) and (reason := _known_kind(name, tensor)):
            left_out.setdefault(reason, []).append(name)
            del others[name]
    known = [name for names in left_out.values() for name in names]
    heads = _heads(others, reader, prefix)
    if selection.head_name is not None or not heads:
        others |= _linear_layers(found.elsewhere)
    module = ""
    if selection.head_name is not None:
        module, heads = _named_head(selection.head_name, prefix, others, path)
    for pattern in selection.ignore:
        matching = _matching(pattern, prefix, [*trunk, *others, *known], path)
        if taken := [name for name in matching if name in trunk or name in heads]:
            raise UsageError(
                f"--ignore {pattern!r} would leave out {_listed(taken)}, which the network needs. "
                "Give a pattern of other names."
            )
        _leave_out(matching, others, left_out, "by --ignore")
    if selection.head_name is None:
        heads = _heads(others, reader, prefix)
    else:
        unused = [name for name in _heads(others, reader, prefix) if name not in heads]
        _leave_out(unused, others, left_out, "not of the head named")
    others = {name: tensor for name, tensor in others.items() if name not in heads}
    if found.by_place and heads:
        around = [name for name in others if not name.startswith(prefix)]
        _leave_out(around, others, left_out, f"not of {found.name}")
    if others:
        raise _unaccounted(found, others, {**trunk, **heads}, heads, path)
    own = {name.removeprefix(prefix): tensor for name, tensor in {**trunk, **heads}.items()}
    in_head = {name.removeprefix(module): tensor for name, tensor in heads.items()}
    return OwnTensors(
        state={name.removeprefix(prefix): t for name, t in trunk.items()} if module else own,
        head=in_head if module else {},
        names_in_file=own,
        passed_over=tuple(
            f"{_listed(names)} ({reason})" for reason, names in left_out.items() if names
        ),
    )


def _split(found: FoundWeights, reader: Reader) -> tuple[State, State]:
    """The tensors of the trunk and the others of their dict, by whole name."""
    trunk: State = {}
    others: State = {}
    for bare, tensor in found.weights.state.items():
        use = trunk if reader.TRUNK.fullmatch(bare) else others
        use[found.weights.prefix + bare] = tensor
    return trunk, {**others, **found.weights.beside}


def _heads(tensors: State, reader: Reader, prefix: str) -> State:
    """The tensors of the family's own heads, if they have a form that is supported."""
    heads: State = {}
    for module in reader.HEADS:
        begin = f"{prefix}{module}."
        head = {
            name: tensor
            for name, tensor in tensors.items()
            if name.startswith(begin) and name.rpartition(".")[2] in _LEAVES
        }
        if may_be_head({name.removeprefix(begin): tensor for name, tensor in head.items()}):
            heads |= head
    return heads


def _leave_out(
    names: Sequence[str], others: State, left_out: dict[str, list[str]], reason: str
) -> None:
    """Move tensors from the others to those left out."""
    for name in names:
        if name in others:
            left_out.setdefault(reason, []).append(name)
            del others[name]


def _known_kind(name: str, tensor: Tensor) -> str | None:
    """The reason to pass a tensor over, if it is of a kind that no network computes with."""
    *modules, leaf = name.split(".")
    if leaf in _COUNTS and tensor.numel() == 1:
        return _COUNTS[leaf]
    if modules and leaf in _METRIC:
        return "of a metric"
    if tensor.dim() < 2 and any(map(_is_loss, modules)):  # class weights; a head has two dimensions
        return "of a loss"
    return None


def _is_loss(module: str) -> bool:
    words = module.lower().split("_")
    return any(
        word.startswith(("criteri", "loss")) or word.rstrip("0123456789").endswith("loss")
        for word in words
    )


def _linear_layers(dicts: Sequence[tuple[str, State]]) -> State:
    """The tensors of other dicts that hold linear layers, any of which may be the head."""
    layers: State = {}
    for place, tensors in dicts:
        if any(_is_linear(name, tensor) for name, tensor in tensors.items()):
            begin = f"{place[-MAX_NAME:]}." if place else ""
            layers |= {begin + name[:MAX_NAME]: tensor for name, tensor in tensors.items()}
    return layers


def _is_linear(name: str, tensor: Tensor) -> bool:
    return name.rpartition(".")[2] == "weight" and tensor.dim() == 2


def _named_head(module: str, prefix: str, names: State, path: Path) -> tuple[str, State]:
    """The beginning of the names of the module given, and its tensors by whole name."""
    for begin in _begins(module, prefix):
        if head := {name: tensor for name, tensor in names.items() if name.startswith(begin)}:
            return begin, head
    raise UsageError(
        f"--head-name {module} was given, but {path} has no tensor such as {module}.weight beside "
        f"the trunk. It has {_listed(names) or 'none'}. Give the module that is the head."
    )


def _begins(module: str, prefix: str) -> tuple[str, str]:
    """The beginnings of names in a module, which is told with or without the prefix."""
    module = without_marks(module.rstrip("."))
    return f"{module}.", f"{prefix}{module}."


def _matching(pattern: str, prefix: str, names: Sequence[str], path: Path) -> list[str]:
    """The names that a pattern matches, with or without the prefix."""
    pattern = without_marks(pattern)
    matching = [
        name
        for name in names
        if fnmatchcase(name, pattern) or fnmatchcase(name.removeprefix(prefix), pattern)
    ]
    if not matching:
        raise UsageError(
            f"--ignore {pattern!r} matches no tensor in {path}. Its names are such as "
            f"{_listed(names)}. Correct the pattern, or leave it out."
        )
    return matching


def _unaccounted(
    found: FoundWeights, others: State, own: State, heads: State, path: Path
) -> CheckpointError:
    """The error for tensors that could count, with the options that say whether they do."""
    if slopes := [n for n, t in others.items() if _PRELU.fullmatch(n) and t.dim() == 1]:
        return CheckpointError(
            f"{path} holds {_listed(slopes)}, slopes of PReLU. Expected a network with one "
            f"of {', '.join(ACTIVATIONS)}, as no other activation is supported exactly. Train it "
            "with one of these."
        )
    prefix = found.weights.prefix
    behind = f" behind {prefix!r}" if prefix else ""
    described = _listed([f"{name} ({sides(tensor)})" for name, tensor in others.items()])
    ignore = " ".join(f"--ignore '{pattern}'" for pattern in _patterns(others, own)[:3])
    named = _possible_head(others, prefix)
    if not heads:
        give = f"If {named} is its head, give --head-name {named}. " if named else ""
        return CheckpointError(
            f"{path} holds a LeViT without a head{behind}, and beside it {described}. Expected to "
            f"know whether these count. {give}If they do not, leave them out with {ignore}."
        )
    if prefix and not any(name.startswith(prefix) for name in others):
        ignore = f"--weights {prefix.rstrip('.')} or {ignore}"
    widths = {tensor.shape[1] for tensor in heads.values() if tensor.dim() == 2}
    fits = named and any(t.dim() == 2 and t.shape[1] in widths for t in others.values())
    give = f" If {named} is its head, give --head-name {named}." if fits else ""
    more = "another tensor" if len(others) == 1 else f"{len(others)} more tensors"
    return CheckpointError(
        f"{path} holds a LeViT{behind} and {more}: {described}. Expected the tensors of one "
        f"network. If its logits do not depend on them, give {ignore}.{give}"
    )


def _possible_head(others: State, prefix: str) -> str | None:
    """The first module with one linear layer, alone or behind a BatchNorm, if there is one."""
    modules: dict[str, State] = {}
    for name, tensor in others.items():
        begin = prefix if name.startswith(prefix) else ""
        module, _, rest = name.removeprefix(begin).partition(".")
        modules.setdefault(begin + module, {})[rest] = tensor
    for module, tensors in modules.items():
        if may_be_head(tensors) and any(_is_linear(name, t) for name, t in tensors.items()):
            return module
    return None


def _patterns(others: State, own: State) -> list[str]:
    """The widest patterns for names that take none of the network's own."""
    begins = set()
    for name in own:
        parts = name.split(".")
        begins |= {".".join(parts[:i]) for i in range(1, len(parts))}
    patterns = dict.fromkeys(_pattern(name, begins) for name in others)
    return list(patterns)


def _pattern(name: str, own: Collection[str]) -> str:
    parts = name.split(".")
    modules = (".".join(parts[:i]) for i in range(1, len(parts)))
    return next((f"{module}.*" for module in modules if module not in own), name)


def _listed(names: Collection[str]) -> str:
    return listed([name[:200] for name in names])
