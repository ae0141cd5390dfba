"""timm's layout, ``timm/models/levit.py``, linear and ``conv``.

A stage starts with the subsampling before it. In the official code, a stage ends with one. The
``features_only`` of ``conv`` has stem_conv1 and stages_0 for stem.conv1 and stages.0. A folder
from the hub has a ``config.json`` with ``architecture``, ``pretrained_cfg`` and perhaps
``model_args``.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.families.activations import require_activation
from levit_deploy.checkpoint.families.known import Known, facts, stated_labels, stated_problem_type
from levit_deploy.checkpoint.families.names import BIASES, NUMBER, layer
from levit_deploy.checkpoint.families.rename import InBlock, rename
from levit_deploy.checkpoint.folder import PAIR, image_size_of
from levit_deploy.checkpoint.given import Release
from levit_deploy.config import TIMM_VARIANTS, VARIANTS, LeViTConfig
from levit_deploy.errors import CheckpointError
from levit_deploy.pictures.preprocessing import Preprocessing, stated

FAMILY = "timm"
FIRST_WITH_OWN_NAMES = (0, 8, 10)  # the releases before save the official ones

_PART = rf"stages[._]{NUMBER}\.(?:downsample|blocks\.{NUMBER})"
OURS = re.compile(
    rf"stem[._]conv[0-9]\.linear\..+|{_PART}\.(?:attn\.qkv\.linear|attn_downsample)\..+"
)
TRUNK = re.compile(
    rf"stem[._]conv[0-9]\.{layer('linear')}"
    rf"|{_PART}\.(?:attn|attn_downsample)\.(?:(?:qkv|kv|q\.ln|proj\.ln)\.{layer('linear')}|{BIASES})"
    rf"|{_PART}\.mlp\.(?:ln1|ln2)\.{layer('linear')}"
)
HEADS: tuple[str, ...] = ("head", "head_dist")

_STEM = re.compile(r"stem[._]conv([0-9])\.(.+)")
_BLOCK = re.compile(
    r"stages[._]([0-9]{1,4})\.(?:downsample|blocks\.([0-9]{1,4}))\.(attn|attn_downsample|mlp)\.(.+)"
)
_LAYERS = {"proj.ln": "proj.1", "q.ln": "q.1", "ln1": "0", "ln2": "2"}

_VARIANTS = {name.lower().replace("-", "_"): config for name, config in VARIANTS.items()}
_VARIANTS |= TIMM_VARIANTS
_VARIANT_FACTS = ("stem widths", "stage widths", "blocks a stage", "attention heads a stage")
# arguments that change a variant's architecture (timm's Levit.__init__)
_ARCHITECTURE = {"embed_dim", "key_dim", "depth", "num_heads", "attn_ratio", "mlp_ratio"}
_ARCHITECTURE |= {"stem_type", "stem_backbone"}

_CROP_MODES = {"center": "cover", "squash": "stretch", "border": "border"}  # by our names
_USUAL = Preprocessing(crop_fraction=0.9)  # of every LeViT in timm (levit.py's _cfg)
_SILENT = Preprocessing(crop_fraction=0.875)  # if a config is silent (PretrainedCfg's defaults)


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of timm's LeViT."""
    return any(map(OURS.fullmatch, keys))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under their canonical names."""
    return rename(state, _canonical)


def known(config: Mapping[str, Any], _release: Release | None = None) -> Known:
    """Read a hub folder's ``config.json``.

    ``architecture`` names one of timm's variants, which ``model_args`` may change.
    ``pretrained_cfg`` describes the pretrained weights, and fine-tuning at another size leaves it
    as it is. Raises CheckpointError for another library's config.
    """
    if (library := config.get("model_type")) not in (None, "timm_wrapper"):
        raise CheckpointError(f"config.json is for {library!r}. {PAIR}")
    name = str(config.get("architecture") or "")
    if name and not name.rpartition(":")[2].startswith("levit"):
        raise CheckpointError(f"config.json is for {name!r}. {PAIR}")
    variant = variant_named(name)
    arguments = _object(config, "model_args")
    pretrained = _object(config, "pretrained_cfg") or config

    activation = variant.activation if variant is not None else None
    if arguments.get("act_layer") is not None:
        activation = require_activation(arguments["act_layer"], "config.json")
    attention_activation = arguments.get("attn_act_layer")
    image_size, input_size = arguments.get("img_size"), pretrained.get("input_size")
    return Known(
        activation=activation,
        variants_activation=True,
        stride=2,
        attention_activation=(
            require_activation(attention_activation, "config.json")
            if attention_activation
            else None
        ),
        image_size=None if image_size is None else image_size_of(image_size),
        usual_image_size=None if input_size is None else image_size_of(input_size),
        stated=_stated(config, variant, arguments),
        preprocessing=pictures(
            pretrained,
            _SILENT if config.keys() & {"architecture", "pretrained_cfg"} else _USUAL,
            "config.json",
        ),
        labels=_labels({**pretrained, **config}),
        problem_type=stated_problem_type(config),
        told=() if activation is None else (f"activation {activation}, by config.json",),
    )


def variant_named(name: object) -> LeViTConfig | None:
    """The variant of a model's name, such as 'hf_hub:timm/levit_conv_256.fb_dist_in1k'."""
    bare = re.split("[:/]", str(name))[-1].partition(".")[0]
    return _VARIANTS.get(bare.lower().replace("-", "_").replace("_conv", ""))


def _stated(
    config: Mapping[str, Any], variant: LeViTConfig | None, arguments: Mapping[str, Any]
) -> dict[str, object]:
    architecture: dict[str, object] = {}
    if variant is not None and not _ARCHITECTURE & arguments.keys():
        architecture = {name: facts(variant)[name] for name in _VARIANT_FACTS}
    if type(classes := config.get("num_classes")) is int:
        architecture["classes"] = classes
    return architecture


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, or their descriptions if each has one.

    ``label_names`` (``labels`` in older files) may be codes, such as WordNet's for ImageNet.
    ``label_descriptions`` explains them (timm's ``_hub.py``).
    """
    names = stated_labels(config.get("label_names") or config.get("labels"))
    described = config.get("label_descriptions")
    if names and isinstance(described, dict) and described.keys() >= set(names):
        return stated_labels([described[name] for name in names])
    return names


def pictures(pretrained: Mapping[str, Any], usual: Preprocessing, source: str) -> Preprocessing:
    """Read the preprocessing from ``pretrained_cfg``, or from the arguments of ``train.py``."""
    mode = pretrained.get("crop_mode") or None
    resize = _CROP_MODES.get(mode) if isinstance(mode, str) else None
    return stated(
        usual,
        source,
        unsupported="" if resize or not mode else f"{source} says crop_mode: {mode}"[:200],
        resize=resize,
        crop_fraction=pretrained.get("crop_pct"),
        interpolation=pretrained.get("interpolation") or None,  # train.py has '' for the usual
        mean=pretrained.get("mean"),
        std=pretrained.get("std"),
    )


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(
            f"config.json has {value!r} under {key!r}. Expected an object, as timm writes it. "
            "Correct it, or give the weights file alone."
        )
    return value or {}


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
