"""Fold every BatchNorm into the linear map beside it.

In evaluation BatchNorm is affine: y = s * x + t, with s = gamma / sqrt(var + eps) and
t = beta - mean * s (Ioffe & Szegedy, arXiv 1502.03167, section 3.1).

    after a map,   Conv2d_BN, Linear_BN:  s * (W x + b) + t = (s W) x + (s b + t)    rows of W
    before a map,  BN_Linear:             W (s * x + t) + b = (W s) x + (W t + b)    columns of W

The first line holds for grouped convolutions too, as output channels are the first axis of any
convolution's weight. The second is used for linear layers only. It would not be exact for a padded
convolution, as the border sees 0 instead of t.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from levit_deploy.errors import CheckpointError
from levit_deploy.model import BN_Linear, Conv2d_BN, LeViT, Linear_BN
from levit_deploy.passes.replace import copied, replace_modules


def fuse_batchnorm(model: LeViT) -> LeViT:
    """Replace ``Conv2d_BN``, ``Linear_BN`` and ``BN_Linear`` by plain layers with a bias.

    Raises CheckpointError, with the layer's name, for a negative variance or a non-finite value.
    """
    model = replace_modules(model, Conv2d_BN, _fuse_after)
    model = replace_modules(model, Linear_BN, _fuse_after)
    return replace_modules(model, BN_Linear, _fuse_before)


def _fuse_after(leaf: Conv2d_BN | Linear_BN, name: str) -> nn.Module:
    scale, shift = batchnorm_as_affine(leaf.bn, f"{name}.bn")
    weight = leaf.c.weight.detach().double()
    bias = torch.zeros_like(shift) if leaf.c.bias is None else leaf.c.bias.detach().double()
    per_row = scale.view(-1, *[1] * (weight.dim() - 1))
    return _with_parameters(leaf.c, weight * per_row, bias * scale + shift)


def _fuse_before(leaf: BN_Linear, name: str) -> nn.Module:
    scale, shift = batchnorm_as_affine(leaf.bn, f"{name}.bn")
    weight, bias = leaf.l.weight.detach().double(), leaf.l.bias.detach().double()
    return _with_parameters(leaf.l, weight * scale, weight @ shift + bias)


def batchnorm_as_affine(bn: nn.BatchNorm1d | nn.BatchNorm2d, name: str) -> tuple[Tensor, Tensor]:
    """Return the float64 (scale, shift), one number a channel, of a BatchNorm in evaluation.

    Raises CheckpointError for statistics that no training can produce.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise CheckpointError(
            f"{name} has no running statistics, so its output depends on the batch. Expected a "
            "BatchNorm with tracked statistics. Train with track_running_stats=True."
        )
    tensors = {
        "weight": bn.weight,
        "bias": bn.bias,
        "running_mean": bn.running_mean,
        "running_var": bn.running_var,
    }
    for field, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{name}.{field} holds NaN or infinity. Expected finite numbers. Check the "
                "training run that wrote the file."
            )
    if (bn.running_var < 0).any():
        raise CheckpointError(
            f"{name}.running_var holds {bn.running_var.min().item():.3g}. A variance cannot be "
            "negative, so the file is damaged. Load an intact copy."
        )
    gamma, beta = bn.weight.detach().double(), bn.bias.detach().double()
    scale = gamma / torch.sqrt(bn.running_var.double() + bn.eps)
    return scale, beta - bn.running_mean.double() * scale


def _with_parameters(layer: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    """A copy of ``layer`` with the same geometry, and these parameters in the layer's dtype."""
    plain = copied(layer)
    dtype = plain.weight.dtype
    assert isinstance(dtype, torch.dtype)
    plain.weight = nn.Parameter(weight.to(dtype))
    plain.bias = nn.Parameter(bias.to(dtype))
    return plain
