"""The official layout, facebookresearch/LeViT ``levit.py``. Its names are the canonical ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

FAMILY = "official"


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of an official LeViT."""
    return any(key.startswith(("patch_embed.0.c.", "blocks.0.m.qkv.c.")) for key in keys)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names: here, unchanged."""
    return dict(state)
