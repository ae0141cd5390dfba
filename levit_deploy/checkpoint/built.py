"""Join the facts that the objects of a network state to those of its family.

A network that was saved whole, or that is at hand in Python, has modules: their classes tell the
activations, and their attributes eps. Only a function in its code stays unseen.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from levit_deploy.checkpoint.families.activations import require_activation
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.pickles.modules import ModuleFacts, Modules
from levit_deploy.errors import CheckpointError

SOURCE = "the network itself"

_ACTIVATION = re.compile(r".*\.activations?(_\w+)?\.\w+")  # of torch, timm and transformers
_NO_ACTIVATIONS = {"MultiheadAttention", "Softmax", "LogSoftmax"}  # torch keeps them there
# The parts that have their activations, by words in the paths of every family.
_PARTS = {
    "stem_activation": re.compile(
        r".*\b(patch_embed\w*|stem|conv_embedding|embedding_layer_\d)\b.*"
    ),
    "attention_activation": re.compile(r".*\b(proj|projection|to_out)\b.*"),
    "activation": re.compile(r".*"),
}
_NORM = re.compile(r".*\.(Sync)?BatchNorm(1d|2d)?|.*\.BatchNormAct2d|.*\.LayerNorm")


def with_modules(known: Known, modules: Modules) -> Known:
    """The facts known of a network, and those that its modules state.

    Raises CheckpointError for an activation that is not supported, and if the modules of a part
    state several.
    """
    if not modules:
        return known
    stated: dict[str, Any] = _activations(known, modules)
    eps = _only("eps", {_eps(module) for module in modules.values() if _is_norm(module)})
    if eps is not None:
        stated["eps"] = eps
    told = (
        f"{name.replace('_', ' ')} {value}, by {SOURCE}" for name, value in stated.items() if value
    )
    return replace(known, **stated, activation_source=SOURCE, told=(*known.told, *told))


def _activations(known: Known, modules: Modules) -> dict[str, Any]:
    by_part: dict[str, set[str]] = {part: set() for part in _PARTS}
    for path, module in modules.items():
        if _is_activation(module):
            part = next(part for part, words in _PARTS.items() if words.fullmatch(path))
            by_part[part].add(_activation(module))
    activations = {part: _only(part, names) for part, names in by_part.items() if names}
    usual = activations.get("activation", known.activation)
    return {
        part: None if name == usual and part != "activation" else name
        for part, name in activations.items()
    }


def _only(part: str, values: set[Any]) -> Any:
    """The one value, or None if there is none."""
    if len(values) > 1:
        raise CheckpointError(
            f"The modules of the network state several values of {part.replace('_', ' ')}: "
            f"{', '.join(sorted(map(str, values)))}. Expected one for all blocks, as in every "
            "published LeViT. No other network is supported."
        )
    return next(iter(values), None)


def _is_activation(module: ModuleFacts) -> bool:
    name = module.class_name.rpartition(".")[2]
    return bool(_ACTIVATION.fullmatch(module.class_name)) and name not in _NO_ACTIVATIONS


def _activation(module: ModuleFacts) -> str:
    settings: Mapping[str, object] = module.settings
    name = module.class_name
    if settings.get("approximate", "none") != "none":  # of torch's GELU
        name = f"{name}_{settings['approximate']}"
    return require_activation(name, SOURCE)


def _is_norm(module: ModuleFacts) -> bool:
    return bool(_NORM.fullmatch(module.class_name)) and "eps" in module.settings


def _eps(module: ModuleFacts) -> object:
    return module.settings["eps"]
