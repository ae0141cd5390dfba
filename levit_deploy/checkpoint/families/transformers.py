"""The layout of Hugging Face transformers, ``models/levit/modeling_levit.py``.

``LevitForImageClassificationWithTeacher`` has two heads, ``LevitForImageClassification`` one. A
stage ends with the subsampling behind it. The activation is hard-coded.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.families.known import Known, stated_labels, stated_problem_type
from levit_deploy.checkpoint.families.rename import InBlock, rename
from levit_deploy.checkpoint.folder import (
    PAIR,
    PREPROCESSOR_CONFIG,
    PROCESSOR_CONFIG,
    image_size_of,
)
from levit_deploy.checkpoint.given import Release
from levit_deploy.config import Grid
from levit_deploy.errors import CheckpointError
from levit_deploy.pictures.preprocessing import Preprocessing, stated

FAMILY = "transformers"

_PREFIX = r"(?:levit\.)?"  # LevitModel, which has no head, saves names without it
_OURS = re.compile(
    _PREFIX + r"(patch_embeddings\.embedding_layer_[0-9]\..+"
    r"|encoder\.stages\.[0-9]+\.layers\.[0-9]+\.module\.queries_keys_values\..+)"
)
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

# LevitImageProcessor's steps, if its config does not change them
_STEPS = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}
_KINDS = ("image_processor_type", "feature_extractor_type")  # the latter in older files
_SIDE = 224  # the side it resizes for and crops to, if the config has none
_USUAL = Preprocessing(truncated=True)
# by Pillow's number, which the config has
_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


def matches(keys: Collection[str]) -> bool:
    """Whether these are the parameter names of a LeViT in transformers."""
    return any(map(_OURS.fullmatch, keys))


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
    preprocessing, picture_size = _pictures(config)
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


def _pictures(config: Mapping[str, Any]) -> tuple[Preprocessing, Grid | None]:
    """Read LevitImageProcessor's config: the preprocessing, and the size of its images.

    The size is None if another processor, or no crop, determines it.
    """
    source, processor = _processor(config)
    if not isinstance(processor, dict):
        return _USUAL, None
    other_steps = _other_steps(processor)
    fraction, side, other_sizes = _crop(processor)
    others = other_steps | other_sizes
    resample = processor.get("resample")
    if type(resample) is int and 0 <= resample < len(_INTERPOLATIONS):
        resample = _INTERPOLATIONS[resample]
    mean, std = processor.get("image_mean"), processor.get("image_std")
    preprocessing = stated(
        _USUAL,
        source,
        unsupported=f"{source} says {str(others)[:200]}" if others else "",
        crop_fraction=fraction,
        interpolation=resample,
        mean=[mean] if isinstance(mean, int | float) else mean,
        std=[std] if isinstance(std, int | float) else std,
    )
    cropped = side and not other_steps.keys() & {"do_center_crop", *_KINDS}
    return preprocessing, (side, side) if side and cropped else None


def _processor(config: Mapping[str, Any]) -> tuple[str, object]:
    """The config of the image processor and the name of its file, in transformers' order."""
    nested = config.get(PROCESSOR_CONFIG)
    if isinstance(nested, dict) and isinstance(nested.get("image_processor"), dict):
        return PROCESSOR_CONFIG, nested["image_processor"]
    return PREPROCESSOR_CONFIG, config.get(PREPROCESSOR_CONFIG)


def _other_steps(processor: Mapping[str, Any]) -> dict[str, object]:
    """The parts of a config that change LevitImageProcessor's steps or name another processor."""
    others = {
        name: processor[name]
        for name, usual in _STEPS.items()
        if processor.get(name) not in (None, usual)
    }
    kind = _kind(processor)
    if kind is not None and not str(processor[kind]).startswith("Levit"):
        others[kind] = processor[kind]
    return others


def _kind(processor: Mapping[str, Any]) -> str | None:
    """The key that names the class of the processor."""
    return next((name for name in _KINDS if processor.get(name)), None)


def _crop(processor: Mapping[str, Any]) -> tuple[float | None, int | None, dict[str, object]]:
    """The crop fraction, the side of the crop in pixels, and the sizes that are not supported.

    LevitImageProcessor resizes to 256/224 of ``size`` and crops to ``crop_size``, each 224 if
    missing. The fraction is None if the config gives neither, or if there is none.
    """
    size, crop = (_or_else(processor.get(name), _SIDE) for name in ("size", "crop_size"))
    if _kind(processor) == "feature_extractor_type" and type(size) is int:
        crop = _or_else(processor.get("crop_size"), size)  # LevitFeatureExtractor had one for both
    shortest, side = _pixels(size, "shortest_edge"), _pixels(crop, "height", "width")
    unsupported: dict[str, object] = {}
    if shortest is None:
        unsupported["size"] = size
    if side is None:
        unsupported["crop_size"] = crop
    if shortest is None or side is None or not processor.keys() & {"size", "crop_size"}:
        return None, side, unsupported
    fraction = _crop_fraction(side, shortest)
    if fraction > 1:  # it pads with black
        return None, side, {"size": size, "crop_size": crop}
    return fraction, side, {}


def _crop_fraction(side: int, shortest: int) -> float:
    """The crop fraction for which ``side`` pixels are cropped from exactly transformers' size."""
    fraction = 224 / 256 * side / shortest
    resized = int(256 / 224 * shortest)
    while math.floor(side / fraction) < resized:  # rounding makes it one pixel less
        fraction = math.nextafter(fraction, 0)
    return fraction


def _or_else(value: object, usual: object) -> object:
    return usual if value is None else value


def _pixels(size: object, *sides: str) -> int | None:
    """The number of pixels that a size gives for all ``sides``, or None if it gives no such."""
    numbers = [size]
    if isinstance(size, dict) and size.keys() == set(sides):
        numbers = list(size.values())
    first = numbers[0]
    if type(first) is int and 0 < first < 100_000 and numbers == [first] * len(numbers):
        return first
    return None


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
