"""Read a head of any form that is a linear layer, alone or behind a BatchNorm."""

from collections.abc import Mapping

import torch
from torch import Tensor

from levit_deploy.checkpoint.assumption import Assumption
from levit_deploy.checkpoint.given import Selection
from levit_deploy.errors import CheckpointError

_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def with_heads_in_form(
    converted: Mapping[str, Tensor], head: Mapping[str, Tensor], selection: Selection
) -> tuple[dict[str, Tensor], list[Assumption]]:
    """Return tensors under canonical names with the heads in canonical form, and the assumptions.

    Canonical are ``head.l`` behind ``head.bn``, or ``head`` itself as a plain linear layer.
    ``head`` holds the tensors of the module that was selected as the head, by their names in it.
    """
    modules = {"head.": "head", "head_dist.": "head_dist"}
    in_form = {key: t for key, t in converted.items() if not key.startswith(tuple(modules))}
    assumed: list[Assumption] = []
    for begin, name in modules.items():
        tensors = {
            key.removeprefix(begin): t for key, t in converted.items() if key.startswith(begin)
        }
        if begin == "head." and selection.head_name is not None:
            tensors, name = dict(head), selection.head_name
            fact = f"{name} takes the mean of the last stage's tokens"
            assumed.append(Assumption(fact, "as the heads of every family do"))
            if tensors.keys() == {"weight"}:
                tensors["bias"] = tensors["weight"].new_zeros(tensors["weight"].shape[0])
        if tensors:
            layers, more = _in_form(tensors, name)
            in_form |= {begin + key: tensor for key, tensor in layers.items()}
            assumed += more
    return in_form, assumed


def may_be_head(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a module's tensors are of at most one linear layer and one BatchNorm."""
    linear = {key.rpartition(".")[0] for key, t in tensors.items() if _is_matrix(key, t)}
    others = {key.rpartition(".")[0] for key in tensors} - linear
    norms = {key.rpartition(".")[0] for key in tensors if ".running_" in f".{key}"}
    return len(linear) <= 1 and len(others) <= 1 and (not linear or others <= norms)


def _in_form(
    tensors: Mapping[str, Tensor], name: str
) -> tuple[dict[str, Tensor], list[Assumption]]:
    """Return the tensors of one head under canonical names, and the assumptions.

    Raises CheckpointError for a head that is no such layer. ``name`` is that of the head.
    """
    modules = {key.rpartition(".")[0] for key in tensors}
    if (modules <= {"bn", "l"} and "bn" in modules) or tensors.keys() <= {"weight", "bias"}:
        return dict(tensors), []  # the strict loader names what is missing
    linear = [key.removesuffix("weight") for key, t in tensors.items() if _is_matrix(key, t)]
    norms = [key.removesuffix("running_var") for key in tensors if key.endswith("running_var")]
    parts = [*linear, *norms]
    leaves = {f"{norm}{leaf}" for norm in norms for leaf in (*_STATISTICS, "num_batches_tracked")}
    leaves |= {f"{layer}{leaf}" for layer in linear for leaf in ("weight", "bias")}
    if len(linear) != 1 or len(norms) > 1 or not tensors.keys() <= leaves:
        raise _other_form(name, tensors)
    weight = tensors[f"{linear[0]}weight"].flatten(1)
    bias = tensors.get(f"{linear[0]}bias", torch.zeros(weight.shape[0], dtype=weight.dtype))
    assumed = _between(name, parts)
    if not norms:
        return {"weight": weight, "bias": bias}, assumed
    batchnorm = {f"bn.{leaf}": tensors.get(f"{norms[0]}{leaf}") for leaf in _STATISTICS}
    order = [key for key in tensors if key.startswith(tuple(parts))]
    if weight.shape[1:] != tensors[f"{norms[0]}running_var"].shape or (
        weight.shape[0] == weight.shape[1] and order[0].startswith(linear[0])
    ):
        raise _other_form(name, tensors)
    present = {key: tensor for key, tensor in batchnorm.items() if tensor is not None}
    return {**present, "l.weight": weight, "l.bias": bias}, assumed


def _between(name: str, parts: list[str]) -> list[Assumption]:
    """The assumption on the parts of a ``Sequential`` that have no tensors, if it has any."""
    numbers = sorted(int(part[:-1]) for part in parts if part[:-1].isdecimal())
    if not numbers or numbers == list(range(len(numbers))):
        return []
    fact = f"nothing but dropout is in {name} beside {name}.{numbers[-1]}"
    return [Assumption(fact, "as such layers have no tensors", decisive=True)]


def _is_matrix(key: str, tensor: Tensor) -> bool:
    """Whether it is the weight of a linear layer or of a 1x1 convolution."""
    pointwise = tensor.dim() == 4 and tensor.shape[2:] == (1, 1)
    return key.rpartition(".")[2] == "weight" and (tensor.dim() == 2 or pointwise)


def _other_form(name: str, tensors: Mapping[str, Tensor]) -> CheckpointError:
    described = ", ".join(f"{name}.{key} {tuple(t.shape)}" for key, t in list(tensors.items())[:8])
    return CheckpointError(
        f"The head has {described}. Expected one linear layer, alone or behind one BatchNorm. No "
        "other head is supported exactly. Leave its tensors out with --ignore and export the "
        "features with --output-type features."
    )
