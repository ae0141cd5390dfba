"""mmpretrain's layout, ``mmpretrain/models/backbones/levit.py`` and ``heads/levit_head.py``.

A stage starts with the subsampling before it, and counts attention and MLPs as blocks. Layers fused
by its ``switch_to_deploy`` have no ``conv``, ``linear`` and ``bn`` in their names.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.families.names import BIASES, NUMBER, layer
from levit_deploy.checkpoint.families.rename import InBlock, rename
from levit_deploy.checkpoint.given import Release
from levit_deploy.pictures.preprocessing import Preprocessing, stated

FAMILY = "mmpretrain"

_TRUNK = r"(?:backbone\.)?"  # a backbone saved alone has names without it
OURS = re.compile(
    _TRUNK + r"(?:patch_embed\.patch_embed\.[0-9]\..+"
    rf"|stages\.{NUMBER}\.{NUMBER}\.block\.qkv\..+)"
)
TRUNK = re.compile(
    rf"{_TRUNK}(?:patch_embed\.patch_embed\.[0-9]\.{layer('conv')}|stages\.{NUMBER}\.{NUMBER}\."
    rf"(?:block\.)?(?:(?:qkv|kv|q\.1|proj\.1|linear1|linear2)\.{layer('linear')}|{BIASES}))"
)
HEADS: tuple[str, ...] = ("head.head", "head.head_dist")

_STEM = re.compile(_TRUNK + r"patch_embed\.patch_embed\.([0-9])\.(.+)")
_BLOCK = re.compile(_TRUNK + r"stages\.([0-9]{1,4})\.([0-9]{1,4})\.(block\.)?(.+)")
_HEAD = re.compile(r"head\.(head|head_dist)\.(.+)")
_LAYERS = {"linear1": "0", "linear2": "2"}

# mmpretrain/datasets/transforms: how a picture is resized, and the steps that do not change it
_RESIZES = {"ResizeEdge": "cover", "Resize": "stretch"}
_OTHER_STEPS = ("LoadImageFromFile", "CenterCrop", "PackInputs", "PackClsInputs")
# what a step may say that changes the pictures, and is not supported
_OPTIONS = ("keep_ratio", "efficientnet_style", "scale_factor")


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of mmpretrain's LeViT."""
    return any(map(OURS.fullmatch, keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names."""
    return rename(state, _canonical)


def known(_config: Mapping[str, Any], _release: Release | None = None) -> Known:
    """The facts that the code fixes: ``act_cfg`` leaves the stem its Hardswish."""
    return Known(stem_activation="hardswish", stride=2)


def pictures(
    arguments: Mapping[str, Any], pipeline: Sequence[object], source: str
) -> Preprocessing:
    """Read the preprocessing of mmengine's config: ``test_pipeline`` and ``data_preprocessor``.

    Steps that are not those of Pillow and the middle of a picture are unsupported.
    """
    steps = {str(step.get("type")): step for step in pipeline if isinstance(step, Mapping)}
    others = [step for name, step in steps.items() if name not in (*_RESIZES, *_OTHER_STEPS)]
    others += [step for step in steps.values() if any(map(step.get, _OPTIONS))]
    others += [] if steps.keys() & _RESIZES.keys() else [{"resizing": "none"}]
    fields: dict[str, Any] = {}
    for name, resize in _RESIZES.items():
        if step := steps.get(name):
            others += [] if step.get("backend") == "pillow" else [step]  # the default is OpenCV
            others += [] if step.get("edge", "short") == "short" else [step]
            scale, crop = _side(step.get("scale")), steps.get("CenterCrop", {}).get("crop_size")
            side = _side(crop) if crop is not None else scale
            others += [] if scale and side and side <= scale else [step]
            fields |= {"resize": resize, "interpolation": step.get("interpolation", "bilinear")}
            if scale and side and side <= scale:
                fields["crop_fraction"] = side / scale
    if arguments.get("to_rgb") is not True:  # then blue comes first
        others.append({"to_rgb": False})
    return stated(
        Preprocessing(),
        source,
        unsupported=f"{source} says {str(others)[:200]}" if others else "",
        mean=of_pixels(arguments.get("mean")),
        std=of_pixels(arguments.get("std")),
        **fields,
    )


def _side(size: object) -> int | None:
    """The side of a square, from a number or two equal ones."""
    first, *others = size if isinstance(size, list | tuple) and size else [size]
    alike = len(others) < 2 and all(side == first for side in others)
    return first if isinstance(first, int) and first > 0 and alike else None


def of_pixels(values: object) -> list[float] | None:
    """A mean or deviation of pixels from 0 to 1. mmengine's are of pixels from 0 to 255."""
    if not isinstance(values, list | tuple) or not values:
        return None
    if not all(isinstance(value, int | float) for value in values):
        return None
    return [value / 255 for value in values] if max(values) > 1 else list(values)


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
