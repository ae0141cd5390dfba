"""The variant with LayerNorm that circulates in notebooks.

Its attention blocks differ from the official model's: a LayerNorm over the channels (``norm``),
then plain ``qkv`` and ``proj`` with a bias and no activation between, as in TinyViT.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.families import official
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.families.names import NUMBER
from levit_deploy.checkpoint.families.rename import rename
from levit_deploy.checkpoint.given import Release

FAMILY = "LayerNorm variant"

OURS = re.compile(rf"blocks\.{NUMBER}\.m\.norm\..+")
TRUNK = re.compile(rf"{official.TRUNK.pattern}|blocks\.{NUMBER}\.m\.(?:norm|proj)\.(?:weight|bias)")
HEADS: tuple[str, ...] = official.HEADS

_PROJECTION = re.compile(r"(blocks\.[0-9]+\.m\.proj)\.(weight|bias)")


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of a LeViT with LayerNorm in its attention."""
    return any(map(OURS.fullmatch, keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names."""
    return rename(state, lambda key: _PROJECTION.sub(r"\1.1.\2", key))


def known(_config: Mapping[str, Any], _release: Release | None = None) -> Known:
    """Nothing, as no code of this variant saves a config."""
    return Known()
