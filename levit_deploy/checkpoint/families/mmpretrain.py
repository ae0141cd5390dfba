"""mmpretrain's layout, ``mmpretrain/models/backbones/levit.py`` and ``heads/levit_head.py``.

A stage starts with the subsampling before it, and counts attention and MLPs as blocks. Layers fused
by its ``switch_to_deploy`` have no ``conv``, ``linear`` and ``bn`` in their names.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.families.rename import InBlock, rename
from levit_deploy.checkpoint.given import Release

FAMILY = "mmpretrain"

_TRUNK = r"(?:backbone\.)?"  # a backbone saved alone has names without it
_OURS = re.compile(
    _TRUNK + r"(patch_embed\.patch_embed\.[0-9]\..+"
    r"|stages\.[0-9]{1,4}\.[0-9]{1,4}\.block\.qkv\..+)"
)
_STEM = re.compile(_TRUNK + r"patch_embed\.patch_embed\.([0-9])\.(.+)")
_BLOCK = re.compile(_TRUNK + r"stages\.([0-9]{1,4})\.([0-9]{1,4})\.(block\.)?(.+)")
_HEAD = re.compile(r"head\.(head|head_dist)\.(.+)")
_LAYERS = {"linear1": "0", "linear2": "2"}


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of mmpretrain's LeViT."""
    return any(map(_OURS.fullmatch, keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names."""
    return rename(state, _canonical)


def known(_config: Mapping[str, Any], _release: Release | None = None) -> Known:
    """The facts that the code fixes: ``act_cfg`` leaves the stem its Hardswish."""
    return Known(stem_activation="hardswish", stride=2)


def _canonical(key: str) -> str | InBlock:
    if match := _STEM.fullmatch(key):
        return f"patch_embed.{match[1]}.{_leaf(match[2], 'conv', 'c')}"
    if match := _BLOCK.fullmatch(key):
        stage, block, residual, name = match.groups()
        layer, dot, leaf = name.partition(".")
        name = _LAYERS.get(layer, layer) + dot + leaf.replace("linear.", "c.")
        return InBlock((int(stage), int(block)), f"m.{name}" if residual else name)
    if match := _HEAD.fullmatch(key):
        return f"{match[1]}.{_leaf(match[2], 'linear', 'l')}"
    return key


def _leaf(name: str, theirs: str, ours: str) -> str:
    """Rename ``conv.weight`` or ``linear.weight`` canonically."""
    return ours + name.removeprefix(theirs) if name.startswith(f"{theirs}.") else name
