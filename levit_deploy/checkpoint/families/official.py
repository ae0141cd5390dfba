"""The official layout, facebookresearch/LeViT ``levit.py``. Its names are the canonical ones.

``levit_c.py`` has the same names, with 1x1 convolutions for linear layers. Layers fused by the
official ``replace_batchnorm`` have no ``c`` and ``bn`` in their names.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.families import timm
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.families.names import BIASES, NUMBER, layer
from levit_deploy.checkpoint.families.rename import rename
from levit_deploy.checkpoint.given import Release

FAMILY = "official"

OURS = re.compile(rf"patch_embed\.0\.c\..+|blocks\.{NUMBER}\.m\.qkv\..+")
TRUNK = re.compile(
    rf"patch_embed\.{NUMBER}\.{layer('c')}"
    rf"|blocks\.{NUMBER}\.(?:m\.)?(?:(?:qkv|kv|q\.1|proj\.1|0|2)\.{layer('c')}|{BIASES})"
)
HEADS: tuple[str, ...] = ("head", "head_dist")

_OTHERS = re.compile(rf"blocks\.{NUMBER}\.m\.norm\..+")  # the LayerNorm variant


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of an official LeViT."""
    return any(map(OURS.fullmatch, keys)) and not any(map(_OTHERS.fullmatch, keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names, which are their own."""
    return rename(state, str)


def known(config: Mapping[str, Any], release: Release | None = None) -> Known:
    """The facts in the ``config.json`` of a hub folder of timm. The official code saves no config.

    timm up to 0.8.6 saves the official names. Every variant of it has Hardswish, unless
    ``model_args`` names another. Its attention keeps Hardswish in any case.
    """
    if str(config.get("architecture")).startswith("levit"):
        facts = timm.known(config)
        own = (config.get("model_args") or {}).get("act_layer") is not None
        activation = facts.activation if own else "hardswish"
        return replace(
            facts,
            activation=activation,
            attention_activation="hardswish",
            variants_activation=False,
            told=(f"activation {activation}, by config.json",),
        )
    return Known(attention_activation=None if release is None else "hardswish")
