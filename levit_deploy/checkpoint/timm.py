"""timm's layout, ``timm/models/levit.py``, linear and ``conv``.

A stage starts with the subsampling before it, where the official code ends with it. A folder from
the hub has a ``config.json`` with ``architecture``, ``pretrained_cfg`` and perhaps ``model_args``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.folder import image_size_of
from levit_deploy.checkpoint.rename import InBlock, rename
from levit_deploy.config import TIMM_VARIANTS
from levit_deploy.errors import CheckpointError
from levit_deploy.infer import Known

FAMILY = "timm"

_OURS = re.compile(r"stem\.conv\d\.linear\..+|stages\..+\.(attn\.qkv\.linear|attn_downsample)\..+")
_STEM = re.compile(r"stem\.conv(\d)\.(.+)")
_BLOCK = re.compile(
    r"stages\.(\d{1,4})\.(?:downsample|blocks\.(\d{1,4}))\.(attn|attn_downsample|mlp)\.(.+)"
)
_LAYERS = {"proj.ln": "proj.1", "q.ln": "q.1", "ln1": "0", "ln2": "2"}

# timm's names for activations (timm/layers/create_act.py)
_ACTIVATIONS = {"hard_swish": "hardswish", "hardswish": "hardswish", "silu": "silu"}
_ACTIVATIONS |= {"swish": "silu", "gelu": "gelu"}


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of timm's LeViT."""
    return any(map(_OURS.fullmatch, keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names."""
    return rename(state, _canonical)


def known(config: Mapping[str, Any]) -> Known:
    """Read a hub folder's ``config.json``.

    ``model_args`` is what the model was built with. ``pretrained_cfg`` is what its pretrained
    weights were made for; fine-tuning at another size does not change it.
    """
    if not config:
        return Known(stride=2)
    architecture = str(config.get("architecture", "levit"))
    if not architecture.startswith("levit"):
        raise CheckpointError(
            f"config.json is for {architecture}, but the weights beside it are a LeViT's. Put the "
            "two files of one model into the folder, or give the weights file alone."
        )
    arguments, pretrained = config.get("model_args"), config.get("pretrained_cfg")
    arguments = arguments if isinstance(arguments, dict) else {}
    pretrained = pretrained if isinstance(pretrained, dict) else config

    variant = architecture.replace("_conv", "").partition(".")[0]
    activation = "silu" if variant in TIMM_VARIANTS else "hardswish"  # create_levit's default
    if "act_layer" in arguments:
        activation = _activation(arguments["act_layer"])
    input_size = pretrained.get("input_size")
    return Known(
        activation=activation,
        stride=2,
        attention_activation=(
            _activation(arguments["attn_act_layer"]) if arguments.get("attn_act_layer") else None
        ),
        image_size=image_size_of(arguments["img_size"]) if "img_size" in arguments else None,
        usual_image_size=None if input_size is None else image_size_of(input_size),
    )


def _activation(name: object) -> str:
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise CheckpointError(
            f"config.json says that the activation is {name!r}. Expected one of "
            f"{', '.join(_ACTIVATIONS)}: no other has an exact counterpart here."
        )
    return _ACTIVATIONS[name]


def _canonical(key: str) -> str | InBlock:
    if match := _STEM.fullmatch(key):
        return f"patch_embed.{2 * int(match[1]) - 2}.{match[2].replace('linear.', 'c.')}"
    if match := _BLOCK.fullmatch(key):
        stage, block, part, name = match.groups()
        for theirs, ours in _LAYERS.items():
            if name.startswith(f"{theirs}."):
                name = ours + name.removeprefix(theirs)
        name = name.replace(".linear.", ".c.")
        # the downsampling comes before the stage's blocks, attention before its MLP
        position = (int(stage), -1 if block is None else int(block), int(part == "mlp"))
        return InBlock(position, name if part == "attn_downsample" else f"m.{name}")
    if key.startswith(("head.", "head_dist.")):
        return key.replace(".linear.", ".l.")
    return key
