"""The names of activations in the registries of the field, and of their classes."""

from levit_deploy.choices import ACTIVATIONS
from levit_deploy.errors import CheckpointError

# timm/layers/create_act.py, mmcv's registry, and the classes of torch and timm, in small letters
# and without underscores
_SUPPORTED = {
    "hardswish": "hardswish",
    "hswish": "hardswish",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "relu": "relu",
}


def activation_named(name: object) -> str | None:
    """The activation with this name, such as 'hard_swish' or 'torch.nn.modules.activation.GELU'.

    None if it is not one of ACTIVATIONS.
    """
    if not isinstance(name, str):
        return None
    return _SUPPORTED.get(name.rpartition(".")[2].lower().replace("_", ""))


def require_activation(name: object, source: str) -> str:
    """The activation with this name. Raises CheckpointError for any other."""
    activation = activation_named(name)
    if activation is None:
        raise CheckpointError(
            f"{source} says that the activation is {repr(name)[:80]}. Expected one of "
            f"{', '.join(ACTIVATIONS)}, as no other is supported exactly. If that is wrong, give "
            "the right one with --activation."
        )
    return activation
