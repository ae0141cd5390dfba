"""The layout of lucidrains' vit-pytorch, ``vit_pytorch/levit.py``, which is a LeViT of its own.

- The stem is bare convolutions, with neither BatchNorm nor activation.
- The MLPs and heads have no BatchNorm.
- GELU comes before the projection of attention, which has a bias under its BatchNorm.
- q, k and v are separate layers.
- Attention biases are divided by the scale.
- Stages and subsamplings alternate in ``backbone``.

Releases before 0.20.5 compute other functions of the same tensors: ``--trained-with`` tells one.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from levit_deploy.checkpoint.assumption import Assumption
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.families.names import NUMBER, layer
from levit_deploy.checkpoint.families.rename import InBlock, rename
from levit_deploy.checkpoint.given import Release
from levit_deploy.errors import CheckpointError, UsageError

FAMILY = "vit-pytorch"

_PART = rf"backbone\.{NUMBER}\.layers\.{NUMBER}"
OURS = re.compile(rf"conv_embedding\.[0-9]\..+|{_PART}\.0\.to_q\..+")
TRUNK = re.compile(
    r"conv_embedding\.[0-9]\.(?:weight|bias)"
    rf"|{_PART}\.0\.(?:(?:to_q|to_k|to_v)\.{layer('0', '1')}|to_out\.{layer('1', '2')})"
    rf"|{_PART}\.0\.(?:pos_bias\.weight|pos_indices)"
    rf"|{_PART}\.1\.net\.[03]\.(?:weight|bias)"
)
HEADS: tuple[str, ...] = ("mlp_head", "distill_head")

_STEM = re.compile(r"conv_embedding\.([0-9])\.(weight|bias)")
_OLD_STEM = "to_patch_embedding"
_ATTENTION = re.compile(r"(backbone\.[0-9]{1,4}\.layers\.[0-9]{1,4}\.0)\.pos_bias\.weight")
_LAYER = re.compile(r"backbone\.([0-9]{1,4})\.layers\.([0-9]{1,4})\.([01])\.(.+)")
_ATTENTION_NAMES = {
    "to_q.0.": "q.1.c.",
    "to_q.1.": "q.1.bn.",
    "to_out.1.": "proj.1.c.",
    "to_out.2.": "proj.1.bn.",
    "pos_indices": "attention_bias_idxs",
}
_MLP_NAMES = {"net.0.": "m.0.", "net.3.": "m.2."}
_HEADS = {"mlp_head.": "head.", "distill_head.": "head_dist."}

# The first releases on PyPI with another vit_pytorch/levit.py: the version, how often biases are
# divided by the scale, and the activation of the MLPs.
ARITHMETIC = {
    (0, 20, 5): (1, "hardswish"),
    (0, 18, 3): (1, "gelu"),
    (0, 18, 2): (-1, "gelu"),
    (0, 15, 2): (0, "gelu"),
}
_OLDER = "--trained-with vit-pytorch==VERSION tells an older one"
_NEWEST_BIAS = Assumption(
    "the attention biases are divided by the scale",
    f"as in vit-pytorch since 0.18.3; {_OLDER}",
    decisive=True,
)

# the facts of every release
_FIXED = Known(stem_activation="none", attention_activation="gelu", averages_heads=False, stride=2)


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of vit-pytorch's LeViT."""
    return any(map(OURS.fullmatch, keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names, with q, k and v in one layer."""
    if old := next((key for key in state if key.startswith(_OLD_STEM)), None):
        raise CheckpointError(
            f"{old} is a name of vit-pytorch 0.15.0 and 0.15.1. Expected conv_embedding for "
            f"{_OLD_STEM}, as in every later release. Rename it, and give --trained-with "
            "vit-pytorch==0.15.2, which computes the same."
        )
    merged = dict(state)
    for key in state:
        if match := _ATTENTION.fullmatch(key):
            _merge(merged, match[1])
    return rename(merged, _canonical)


def known(_config: Mapping[str, Any], release: Release | None = None) -> Known:
    """The facts that the code of a release fixes. It saves no config.

    Without a release, those of the newest are assumed.
    """
    if release is None:
        return replace(
            _FIXED,
            bias_over_scale=1,
            usual_activation=("hardswish", f"as in vit-pytorch since 0.20.5; {_OLDER}"),
            assumed=(_NEWEST_BIAS,),
        )
    first = next((first for first in ARITHMETIC if release.version >= first), None)
    if first is None:
        raise UsageError(
            f"--trained-with {release} was given, and these names are of 0.15.2 and later. Give "
            "the release that trained it, or 0.15.2."
        )
    bias, activation = ARITHMETIC[first]
    return replace(
        _FIXED, bias_over_scale=bias, activation=activation, activation_source=str(release)
    )


def _subsamples(backbone: int) -> bool:
    """Whether it is a subsampling: those have odd numbers, stages even ones."""
    return backbone % 2 == 1


def _merge(state: dict[str, Tensor], name: str) -> None:
    """Merge k and v into one layer, head by head, and q if it sees the same tokens."""
    biases = state.pop(f"{name}.pos_bias.weight")  # offsets, heads
    if biases.dim() != 2 or 0 in biases.shape:
        raise CheckpointError(
            f"{name}.pos_bias.weight has the shape {tuple(biases.shape)}. Expected one number for "
            "each offset and head. Save the whole model.state_dict(), unchanged."
        )
    heads = biases.shape[1]
    state[f"{name}.attention_biases"] = biases.T.contiguous()

    subsamples = _subsamples(int(name.split(".")[1]))
    parts = ["to_k", "to_v"] if subsamples else ["to_q", "to_k", "to_v"]
    target = "kv" if subsamples else "qkv"
    leaves = {"0.weight": "c.weight"}
    leaves |= {f"1.{p}": f"bn.{p}" for p in ("weight", "bias", "running_mean", "running_var")}
    for theirs, ours in leaves.items():
        keys = [f"{name}.{part}.{theirs}" for part in parts]
        if all(key in state for key in keys):  # the strict loader names missing tensors
            tensors = [state.pop(key) for key in keys]
            state[f"{name}.{target}.{ours}"] = _head_by_head(tensors, heads, keys)
    for part in parts:
        state.pop(f"{name}.{part}.1.num_batches_tracked", None)


def _head_by_head(tensors: list[Tensor], heads: int, keys: list[str]) -> Tensor:
    """(heads * q, ...), (heads * k, ...), ... -> (heads * (q + k + ...), ...)."""
    tails = {tensor.shape[1:] for tensor in tensors}
    if len(tails) != 1 or any(
        t.dim() == 0 or t.shape[0] % heads or not t.is_floating_point() for t in tensors
    ):
        described = ", ".join(
            f"{key} {tuple(tensor.shape)} {tensor.dtype}"
            for key, tensor in zip(keys, tensors, strict=True)
        )
        raise CheckpointError(
            f"{described} cannot be merged into one layer. Expected floating-point numbers that "
            f"divide among the {heads} heads of the pos_bias beside them, and otherwise one shape. "
            "The tensors come from different networks. Save the state dict of one alone."
        )
    return torch.cat([t.unflatten(0, (heads, -1)) for t in tensors], dim=1).flatten(0, 1)


def _canonical(key: str) -> str | InBlock:
    if match := _STEM.fullmatch(key):
        return f"patch_embed.{2 * int(match[1])}.{match[2]}"
    if match := _LAYER.fullmatch(key):
        backbone, layer, part, name = match.groups()
        names = _ATTENTION_NAMES if part == "0" else _MLP_NAMES
        for theirs, ours in names.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        if part == "0" and not _subsamples(int(backbone)):
            name = f"m.{name}"
        return InBlock((int(backbone), int(layer), int(part)), name)
    for theirs, ours in _HEADS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key
