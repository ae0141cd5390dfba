"""Join the facts in the record of a training run to those of the family.

A fact that a config beside the weights states, or the family's code, comes first.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from levit_deploy.checkpoint.assumption import Assumption
from levit_deploy.checkpoint.families import mmpretrain, official, timm
from levit_deploy.checkpoint.families.activations import activation_named, require_activation
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.folder import image_size_of
from levit_deploy.checkpoint.pickles.inert import Named, attributes
from levit_deploy.checkpoint.training_record import CLASS_NAMES, TrainingRecord
from levit_deploy.config import Grid, size_text
from levit_deploy.errors import CheckpointError
from levit_deploy.pictures.labels import in_order
from levit_deploy.pictures.preprocessing import Preprocessing, stated

_SIZES = ("input_size", "img_size", "image_size")
_CLASSES, _CHANNELS = ("num_classes", "nb_classes"), ("in_chans",)
_OFFICIAL_PICTURES = Preprocessing(crop_fraction=224 / 256)  # its datasets.py
_TIMM_PICTURES = Preprocessing(crop_fraction=0.9)  # data/config.py, by the models' own defaults


def with_record(known: Known, record: TrainingRecord, family: str) -> Known:
    """The facts known of a network, and those in the record of its training.

    Raises CheckpointError if the record states an activation, or a preprocessing, that is not
    supported or makes no sense.
    """
    arguments = record.arguments
    if record.unread:
        unread = Assumption(f"nothing is taken from {record.unread}", "which cannot be read")
        return replace(known, assumed=(*known.assumed, unread))
    if not arguments:
        return known
    if "" in (arguments.get("global_pool"), arguments.get("gp")):
        raise CheckpointError(
            f"{record.source} says that the network does not pool its tokens. Expected the mean of "
            "them, as in every published LeViT. No other is supported."
        )
    changes = {
        **_activations(known, record, family),
        **_image_size(known, record),
        **_pictures(known, record),
    }
    if not known.stated:
        changes["stated"] = _counts(arguments)
    source = record.source
    if known.stated or known.image_size is not None:
        source = f"{known.source} or {source}" if "image_size" in changes else known.source
    if not known.labels:
        changes["labels"] = _labels(arguments)
    told = tuple(f"{name} {text}, by {record.source}" for name, text in _words(changes))
    return replace(known, **changes, source=source, told=(*known.told, *told))


def _activations(known: Known, record: TrainingRecord, family: str) -> dict[str, Any]:
    arguments, source = record.arguments, record.source
    if known.activation is not None:
        return {}
    name = arguments.get("act_layer", attributes(arguments.get("act_cfg")).get("type"))
    if name is None and activation_named(arguments.get("activation")):  # else of another part
        name = arguments["activation"]
    if name is None:
        return _variants_activation(record) if family == timm.FAMILY else {}
    activation = require_activation(_text(name), source)
    changes: dict[str, Any] = {"activation": activation, "activation_source": source}
    own = arguments.get("attn_act_layer")
    if own is not None:
        changes["attention_activation"] = require_activation(_text(own), source)
    elif family == official.FAMILY:  # timm up to 0.8.6, in which act_layer leaves attention alone
        changes["attention_activation"] = "hardswish"
    return changes


def _variants_activation(record: TrainingRecord) -> dict[str, Any]:
    """The activation of the variant that the run names, if it is one of timm's."""
    variant = timm.variant_named(record.arguments.get("model"))
    if variant is None:
        return {}
    return {"activation": variant.activation, "activation_source": record.source}


def _text(name: object) -> object:
    """The name of an activation: a class is recorded by its own."""
    return name.name if isinstance(name, Named) else name


def _image_size(known: Known, record: TrainingRecord) -> dict[str, Any]:
    """The size of the network's images. That of the run's data counts only if it fits."""
    own = attributes(record.arguments.get("model_kwargs")).get("img_size")
    if known.image_size is not None:
        return {}
    if own is not None:
        return {"image_size": image_size_of(own, record.source)}
    size = next((record.arguments[name] for name in _SIZES if record.arguments.get(name)), None)
    if known.usual_image_size is not None or size is None:
        return {}
    return {"usual_image_size": _size(size)}


def _size(value: object) -> Grid | None:
    try:
        return image_size_of(value)
    except CheckpointError:  # a size of something else
        return None


def _pictures(known: Known, record: TrainingRecord) -> dict[str, Any]:
    arguments = record.arguments
    if not known.preprocessing.assumed:
        return {}
    if "data_set" in arguments and "crop_pct" not in arguments:  # the official main.py
        return {"preprocessing": replace(_OFFICIAL_PICTURES, assumed=False)}
    if "crop_pct" in arguments and "interpolation" in arguments:  # timm's train.py
        settled = replace(_TIMM_PICTURES, assumed=False)
        return {"preprocessing": timm.pictures(arguments, settled, record.source)}
    if isinstance(pipeline := arguments.get("test_pipeline"), list):
        return {"preprocessing": mmpretrain.pictures(arguments, pipeline, record.source)}
    mean, std = (mmpretrain.of_pixels(arguments.get(name)) for name in ("mean", "std"))
    if mean is None or std is None:
        return {}
    return {"preprocessing": stated(known.preprocessing, record.source, mean=mean, std=std)}


def _labels(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, from a list or from an object by name or by index; or none."""
    for key in CLASS_NAMES:
        names = arguments.get(key)
        if isinstance(names, Mapping) and all(type(index) is int for index in names.values()):
            names = {index: name for name, index in names.items()}
        if isinstance(names, Mapping):
            names = {str(index): name for index, name in names.items()}
        with suppress(ValueError):  # numbers, or a path
            if labels := in_order(names):
                return labels
    return ()


def _words(changes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts of a record, as they are told."""
    for field, name in (
        ("activation", "activation"),
        ("attention_activation", "activation of attention"),
        ("preprocessing", "preprocessing"),
    ):
        if field in changes and not getattr(changes[field], "unsupported", ""):
            yield name, str(changes[field])
    if "image_size" in changes:
        yield "image size", size_text(changes["image_size"])
    if labels := changes.get("labels"):
        yield f"{len(labels)} labels", ", ".join(labels[:3])


def _counts(arguments: Mapping[str, Any]) -> dict[str, object]:
    # mmengine's data_preprocessor has num_classes, too, which may be left at ImageNet's
    arguments = {**arguments, **attributes(arguments.get("head"))}
    counts = {
        name: next((arguments[key] for key in keys if arguments.get(key)), None)
        for name, keys in (("classes", _CLASSES), ("input channels", _CHANNELS))
    }
    return {name: count for name, count in counts.items() if type(count) is int}
