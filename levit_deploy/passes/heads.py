"""Replace the two heads by one linear layer, or by none.

The network's output is the mean of both (arXiv 2104.01136, section 4.2, "classification heads").
The mean of two affine maps is an affine map:

    ((W1 x + b1) + (W2 x + b2)) / 2 = ((W1 + W2) / 2) x + (b1 + b2) / 2
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from levit_deploy.choices import Head
from levit_deploy.errors import CheckpointError, UsageError
from levit_deploy.model import LeViT
from levit_deploy.passes.replace import copied


def average_heads(model: LeViT) -> LeViT:
    """Replace two plain heads by their mean, and leave one head as it is.

    Raises CheckpointError if a head's BatchNorm has not been fused yet.
    """
    model = copied(model)
    if model.head_dist is None:
        return model
    head, dist = model.head, model.head_dist
    if not isinstance(head, nn.Linear) or not isinstance(dist, nn.Linear):
        raise CheckpointError(
            f"The two heads are {type(head).__name__} and {type(dist).__name__}. Expected plain "
            "linear layers, as no others can be averaged. Fuse their BatchNorms first."
        )
    for name in ("weight", "bias"):
        one, two = getattr(head, name).detach(), getattr(dist, name).detach()
        mean = (one.double() + two.double()) / 2
        setattr(head, name, nn.Parameter(mean.to(one.dtype)))
    model.head_dist = None
    return model


def keep_class_head(model: LeViT) -> LeViT:
    """Drop the distillation head."""
    return _keep(model, "head")


def keep_distill_head(model: LeViT) -> LeViT:
    """Drop the class head."""
    return _keep(model, "head_dist")


def drop_heads(model: LeViT) -> LeViT:
    """Drop every head: the network then gives its pooled features, which the heads would see."""
    model = copied(model)
    model.head, model.head_dist = nn.Identity(), None
    return model


def _keep(model: LeViT, name: str) -> LeViT:
    model = copied(model)
    if model.head_dist is None:
        raise UsageError(
            "The checkpoint does not have two heads, so there is none to choose. Leave --head out."
        )
    model.head = getattr(model, name)
    model.head_dist = None
    return model


HEAD_PASSES: dict[Head, Callable[[LeViT], LeViT]] = {
    "mean": average_heads,
    "class": keep_class_head,
    "distill": keep_distill_head,
}
