"""The config of an image processor of transformers: the steps that it makes of a picture.

``AutoImageProcessor`` reads ``processor_config.json``, else ``preprocessor_config.json``. A LeViT
has LevitImageProcessor, unless its author gave it another. Sources: ``models/levit``, ``vit``,
``deit`` and ``convnext`` of transformers, whose processors differ in the sizes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from levit_deploy.checkpoint.folder import PREPROCESSOR_CONFIG, PROCESSOR_CONFIG
from levit_deploy.config import Grid
from levit_deploy.pictures.preprocessing import Preprocessing, stated

# the steps of every processor here, if its config does not change them
_STEPS = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_pad": False,
    "do_reduce_labels": False,
}
_CLASS_KEYS = ("image_processor_type", "feature_extractor_type")  # the latter in older files
_CLASS = re.compile(r"(\w+?)(ImageProcessor(Fast|Pil)?|FeatureExtractor)")
# by Pillow's number, which the config has
_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_WARPED = 384  # the side from which ConvNextImageProcessor stretches a picture


@dataclass(frozen=True, kw_only=True)
class _Processor:
    """A class of processors, by its values if a config is silent.

    A ``size`` that is a number is the shortest side, or both sides if ``square``. ``crop_size`` is
    None if it does not crop the middle. The shortest side is resized to ``enlarged`` times its
    number. ``unsettled`` are values that differ from release to release.
    """

    usual: Preprocessing
    size: int
    crop_size: int | None = None
    square: bool = True
    enlarged: float = 1.0
    unsettled: tuple[str, ...] = ()


_HALF = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
_BILINEAR = Preprocessing(interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
_LEVIT = _Processor(
    usual=Preprocessing(truncated=True), size=224, crop_size=224, square=False, enlarged=256 / 224
)
_CONVNEXT = _Processor(usual=_HALF, size=384, square=False, unsettled=("resample",))
_PROCESSORS = {
    "Levit": _LEVIT,
    "ViT": _Processor(usual=_BILINEAR, size=224),
    "DeiT": _Processor(usual=_HALF, size=256, crop_size=224),
    "ConvNext": _CONVNEXT,
}


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """The sizes in a config: the fields of ``Preprocessing``, and the size of a picture at last.

    ``others`` are the parts of the config that are not supported. ``picture`` is None if it varies.
    """

    fields: Mapping[str, object] = field(default_factory=dict)
    picture: Grid | None = None
    others: Mapping[str, object] = field(default_factory=dict)


def pictures(config: Mapping[str, Any]) -> tuple[Preprocessing, Grid | None]:
    """Read a processor's config: the preprocessing, and the size of its images.

    The size is None if a processor that is not known determines it, or if it varies.
    """
    source, processor = _config_of_processor(config)
    if not isinstance(processor, dict):
        return _LEVIT.usual, None
    class_key = next((key for key in _CLASS_KEYS if processor.get(key)), None)
    known = _LEVIT if class_key is None else _known_class(str(processor[class_key]))
    others = {
        name: processor[name]
        for name, usual in _STEPS.items()
        if processor.get(name) not in (None, usual)
    }
    if known is None:
        known, sizes = _LEVIT, _Sizes(others={str(class_key): processor[class_key]})
    else:
        sizes = _sizes(processor, known)
        others |= {name: None for name in known.unsettled if processor.get(name) is None}
    others |= sizes.others
    resample = processor.get("resample")
    if type(resample) is int and 0 <= resample < len(_INTERPOLATIONS):
        resample = _INTERPOLATIONS[resample]
    mean, std = processor.get("image_mean"), processor.get("image_std")
    preprocessing = stated(
        known.usual,
        source,
        unsupported=f"{source} says {str(others)[:200]}" if others else "",
        interpolation=resample,
        mean=[mean] if isinstance(mean, int | float) else mean,
        std=[std] if isinstance(std, int | float) else std,
        **sizes.fields,
    )
    return preprocessing, sizes.picture


def _config_of_processor(config: Mapping[str, Any]) -> tuple[str, object]:
    """The config of the image processor and the name of its file, in transformers' order."""
    nested = config.get(PROCESSOR_CONFIG)
    if isinstance(nested, dict) and isinstance(nested.get("image_processor"), dict):
        return PROCESSOR_CONFIG, nested["image_processor"]
    return PREPROCESSOR_CONFIG, config.get(PREPROCESSOR_CONFIG)


def _known_class(name: str) -> _Processor | None:
    match = _CLASS.fullmatch(name)
    return _PROCESSORS.get(match[1]) if match else None


def _sizes(processor: Mapping[str, Any], known: _Processor) -> _Sizes:
    """How a config resizes, and crops if it does."""
    size = _or_else(processor.get("size"), known.size)
    crop = _or_else(processor.get("crop_size"), known.crop_size)
    if known is _LEVIT and processor.get("feature_extractor_type") and type(size) is int:
        crop = _or_else(processor.get("crop_size"), size)  # it had one number for both
    crops = _or_else(processor.get("do_center_crop"), known.crop_size is not None)
    shortest, stretched = _resized(size, known)
    middle = _grid(crop) if crops else None
    wrong = {} if shortest or stretched else {"size": size}
    wrong |= {"crop_size": crop} if crops and middle is None else {}
    if wrong:
        return _Sizes(picture=middle, others=wrong)
    sizes = {"size": size, "crop_size": crop}
    if stretched is not None:
        return _stretching(stretched, middle, sizes)
    if middle is None:
        return _Sizes(others={"do_center_crop": crops})
    if middle[0] != middle[1]:
        return _Sizes(others={"crop_size": crop})
    fraction = _crop_fraction(middle[0], shortest)
    if fraction > 1:  # it pads with black
        return _Sizes(picture=middle, others=sizes)
    silent = known is _LEVIT and not processor.keys() & {"size", "crop_size"}
    fields = {} if silent else {"crop_fraction": fraction, "truncated": True}
    return _Sizes(picture=middle, fields=fields)


def _resized(size: object, known: _Processor) -> tuple[float, Grid | None]:
    """The length of the shortest side, truncated by the processor, or the stretched sides.

    Each is 0 or None if a picture is not resized so.
    """
    shortest = size.get("shortest_edge") if isinstance(size, dict) and len(size) == 1 else size
    if (type(size) is int and known.square) or not _is_side(shortest):
        return 0, None if known is _CONVNEXT else _grid(size)
    if known is not _CONVNEXT:
        return shortest * known.enlarged, None
    return 0, (shortest, shortest) if shortest >= _WARPED else None


def _stretching(stretched: Grid, middle: Grid | None, sizes: Mapping[str, object]) -> _Sizes:
    """Pictures that are stretched to a size, and cropped if there is a ``middle``."""
    if middle in (None, stretched):
        fields = {"resize": "stretch", "crop_fraction": 1.0, "truncated": False}
        return _Sizes(picture=stretched, fields=fields)
    assert middle is not None
    fraction = _crop_fraction(middle[0], stretched[0])
    if fraction > 1 or math.floor(middle[1] / fraction) != stretched[1]:
        return _Sizes(picture=middle, others=sizes)
    fields = {"resize": "stretch", "crop_fraction": fraction, "truncated": True}
    return _Sizes(picture=middle, fields=fields)


def _crop_fraction(side: int, resized: float) -> float:
    """The crop fraction for which ``side`` pixels are cropped from exactly ``resized``, floored."""
    fraction = side / resized
    while math.floor(side / fraction) < int(resized):  # rounding makes it one pixel less
        fraction = math.nextafter(fraction, 0)
    return fraction


def _or_else(value: object, usual: object) -> object:
    return usual if value is None else value


def _grid(size: object) -> Grid | None:
    """The (height, width) that a size states, or None if it does not."""
    height = width = size
    if isinstance(size, dict) and size.keys() == {"height", "width"}:
        height, width = size["height"], size["width"]
    if _is_side(height) and _is_side(width):
        return height, width
    return None


def _is_side(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 100_000
