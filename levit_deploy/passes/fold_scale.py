"""Fold the scale of the attention scores into the rows that compute q.

s * (q . k) = (s q) . k,  and  s q = (s Wq) x + s bq,  with s = key_dim^-0.5
"""

from __future__ import annotations

import torch
from torch import nn

from levit_deploy.errors import CheckpointError
from levit_deploy.model import Attention, AttentionSubsample, LeViT, Scale
from levit_deploy.passes.replace import copied


def fold_scale(model: LeViT) -> LeViT:
    """Scale the q rows of every plain ``qkv`` or ``q`` layer and remove the ``Scale`` behind it.

    Raises CheckpointError if the BatchNorm behind q has not been fused yet.
    """
    model = copied(model)
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "scale", None), Scale):
            continue
        if isinstance(module, Attention):
            _scale_rows(module.qkv, _q_rows(module), module.scale, f"{name}.qkv")
        elif isinstance(module, AttentionSubsample):
            _scale_rows(module.q[-1], slice(None), module.scale, f"{name}.q")
        module.scale = nn.Identity()
    return model


def _q_rows(attention: Attention) -> torch.Tensor:
    """The rows of ``qkv`` that compute q, the first ``key_dim`` of each head."""
    rows_per_head = 2 * attention.key_dim + attention.value_dim
    starts = torch.arange(attention.num_heads)[:, None] * rows_per_head
    return (starts + torch.arange(attention.key_dim)).flatten()


def _scale_rows(layer: nn.Module, rows: torch.Tensor | slice, scale: nn.Module, name: str) -> None:
    if not isinstance(layer, nn.Linear) or not isinstance(scale, Scale):
        raise CheckpointError(
            f"{name} is a {type(layer).__name__}. Expected a plain linear layer, as the scale of "
            "the scores folds into no other. Fuse its BatchNorm first."
        )
    for field in ("weight", "bias"):
        scaled = getattr(layer, field).detach().clone()
        scaled[rows] = (scaled[rows].double() * scale.factor).to(scaled.dtype)
        setattr(layer, field, nn.Parameter(scaled))
