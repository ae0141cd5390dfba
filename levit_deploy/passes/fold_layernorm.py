"""Fold the affine part of a LayerNorm into the linear layer behind it.

LayerNorm scales and shifts its normalised input (Ba et al., arXiv 1607.06450, section 3):

    W (gamma * n + beta) + b = (W gamma) n + (W beta + b),  n = (x - mean(x)) / sqrt(var(x) + eps)

The normalisation itself stays, as every token has its own mean and variance.
"""

from __future__ import annotations

import torch
from torch import nn

from levit_deploy.errors import CheckpointError
from levit_deploy.model import Attention, LeViT
from levit_deploy.passes.replace import copied


def fold_layernorm(model: LeViT) -> LeViT:
    """Leave every LayerNorm before ``qkv`` without weight and bias.

    Raises CheckpointError, with the layer's name, for a non-finite value.
    """
    model = copied(model)
    for name, module in model.named_modules():
        if isinstance(module, Attention) and isinstance(module.norm, nn.LayerNorm):
            _fold(module, name)
    return model


def _fold(attention: Attention, name: str) -> None:
    norm, qkv = attention.norm, attention.qkv
    assert isinstance(norm, nn.LayerNorm)
    if not norm.elementwise_affine:
        return
    if not isinstance(qkv, nn.Linear):
        raise CheckpointError(
            f"{name}.qkv is a {type(qkv).__name__}. Expected a plain linear layer, as the "
            "LayerNorm before it folds into no other. Fuse its BatchNorm first."
        )
    for field in ("weight", "bias"):
        if not torch.isfinite(getattr(norm, field)).all():
            raise CheckpointError(
                f"{name}.norm.{field} holds NaN or infinity. Expected finite numbers. Check the "
                "training run that wrote the file."
            )
    weight, bias = qkv.weight.detach().double(), qkv.bias.detach().double()
    gamma, beta = norm.weight.detach().double(), norm.bias.detach().double()
    dtype = qkv.weight.dtype
    qkv.weight = nn.Parameter((weight * gamma).to(dtype))
    qkv.bias = nn.Parameter((weight @ beta + bias).to(dtype))
    attention.norm = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
