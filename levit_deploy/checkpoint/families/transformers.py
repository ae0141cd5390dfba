"""The layout of Hugging Face transformers, ``models/levit/modeling_levit.py``.

``LevitForImageClassificationWithTeacher`` has two heads, ``LevitForImageClassification`` one. A
stage ends with the subsampling behind it. The activation is hard-coded.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.families.image_processor import pictures
from levit_deploy.checkpoint.families.known import Known, stated_labels, stated_problem_type
from levit_deploy.checkpoint.families.names import BIASES, NUMBER, layer
from levit_deploy.checkpoint.families.rename import InBlock, rename
from levit_deploy.checkpoint.folder import PAIR, image_size_of
from levit_deploy.checkpoint.given import Release
from levit_deploy.errors import CheckpointError

FAMILY = "transformers"

_PREFIX = r"(?:levit\.)?"  # LevitModel, which has no head, saves names without it
_LAYER_NAME = rf"encoder\.stages\.{NUMBER}\.layers\.{NUMBER}\."
OURS = re.compile(
    _PREFIX + r"(?:patch_embeddings\.embedding_layer_[0-9]\..+"
    rf"|{_LAYER_NAME}module\.queries_keys_values\..+)"
)
_LINEAR = "queries_keys_values|keys_values|queries|projection|linear_up|linear_down"
TRUNK = re.compile(
    rf"{_PREFIX}(?:patch_embeddings\.embedding_layer_[0-9]\.{layer('convolution', 'batch_norm')}"
    rf"|{_LAYER_NAME}(?:module\.)?(?:(?:{_LINEAR})\.{layer('linear', 'batch_norm')}|{BIASES}))"
)
HEADS: tuple[str, ...] = ("classifier", "classifier_distill")

_STEM = re.compile(_PREFIX + r"patch_embeddings\.embedding_layer_([0-9])\.(.+)")
_LAYER = re.compile(
    _PREFIX + r"encoder\.stages\.([0-9]{1,4})\.layers\.([0-9]{1,4})\.(module\.)?(.+)"
)
_HEAD = re.compile(r"classifier(_distill)?\.(.+)")
_LAYERS = {
    "queries_keys_values": "qkv",
    "keys_values": "kv",
    "queries": "q.1",
    "projection": "proj.1",
    "linear_up": "0",
    "linear_down": "2",
}
_FACTS = {
    "classes": "num_labels",
    "input channels": "num_channels",
    "stage widths": "hidden_sizes",
    "blocks a stage": "depths",
    "attention heads a stage": "num_attention_heads",
}
_STEM_GEOMETRY = {"kernel_size": 3, "stride": 2, "padding": 1}


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of a LeViT in transformers."""
    return any(map(OURS.fullmatch, keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names."""
    return rename(state, _canonical)


def known(config: Mapping[str, Any], _release: Release | None = None) -> Known:
    """Read ``config.json`` (``LevitConfig``). The code fixes the activation and the stride.

    Raises CheckpointError for another network's config, and for another kind of stem.
    """
    if config.get("model_type", "levit") != "levit":
        raise CheckpointError(f"config.json is for {config['model_type']!r}. {PAIR}")
    for field, expected in _STEM_GEOMETRY.items():
        if config.get(field, expected) != expected:
            raise CheckpointError(
                f"config.json says that the stem's {field} is {config[field]!r}. Expected "
                f"{expected}, as in every published LeViT. No other is supported. Correct the "
                "config if it is wrong."
            )
    if config.get("architectures") == ["LevitModel"]:  # its config may still name the classes
        config = {k: v for k, v in config.items() if k not in ("id2label", "num_labels")}
    size = config.get("image_size")
    preprocessing, picture_size = pictures(config)
    return Known(
        activation="hardswish",
        activation_source="the code of transformers",
        stride=2,  # LevitConfig's down_ops
        image_size=None if size is None else image_size_of(size),
        stated=_stated(config),
        preprocessing=preprocessing,
        picture_size=picture_size,
        labels=_labels(config.get("id2label")),
        problem_type=stated_problem_type(config),
    )


def _labels(names: object) -> tuple[str, ...]:
    """The names of the classes in ``id2label``. As LevitConfig does, accept numbers as names."""
    if isinstance(names, dict):
        names = {i: str(name) if type(name) is int else name for i, name in names.items()}
    return stated_labels(names)


def _stated(config: Mapping[str, Any]) -> dict[str, object]:
    """The config's facts on the architecture, with tuples for lists."""
    stated: dict[str, object] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, field in _FACTS.items()
        if (value := config.get(field)) is not None
    }
    if isinstance(labels := config.get("id2label"), dict):
        stated["classes"] = len(labels)
    if config.get("architectures") == ["LevitForImageClassification"]:
        stated["classifier heads"] = 1
    return stated


def _canonical(key: str) -> str | InBlock:
    if match := _STEM.fullmatch(key):
        return f"patch_embed.{2 * int(match[1]) - 2}.{_leaf(match[2], 'c')}"
    if match := _LAYER.fullmatch(key):
        stage, layer, residual, name = match.groups()
        theirs, dot, leaf = name.partition(".")
        name = _LAYERS.get(theirs, theirs) + dot + _leaf(leaf, "c")
        return InBlock((int(stage), int(layer)), f"m.{name}" if residual else name)
    if match := _HEAD.fullmatch(key):
        return f"head{'_dist' if match[1] else ''}.{_leaf(match[2], 'l')}"
    return key


def _leaf(name: str, linear: str) -> str:
    """Rename ``linear.weight``, ``convolution.weight`` and ``batch_norm.bias`` canonically."""
    layer, dot, parameter = name.partition(".")
    layers = {"linear": linear, "convolution": linear, "batch_norm": "bn"}
    return layers.get(layer, layer) + dot + parameter
