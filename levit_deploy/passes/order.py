"""The passes in order, from training form to plain layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch

from levit_deploy.choices import Head, Output
from levit_deploy.errors import CheckpointError
from levit_deploy.model import LeViT
from levit_deploy.passes.bake_attention_bias import bake_attention_bias
from levit_deploy.passes.fold_layernorm import fold_layernorm
from levit_deploy.passes.fold_scale import fold_scale
from levit_deploy.passes.fuse_batchnorm import fuse_batchnorm
from levit_deploy.passes.heads import HEAD_PASSES, drop_heads
from levit_deploy.passes.pool_early import pool_early
from levit_deploy.passes.replace import copied
from levit_deploy.passes.stage_maps import stage_maps

log = logging.getLogger(__name__)

Pass = Callable[[LeViT], LeViT]


# The passes that choose another output than the logits.
OUTPUT_PASSES: dict[str, Pass] = {"features": drop_heads, "feature-maps": stage_maps}


def passes(head: Head = "mean", output: Output = "logits") -> tuple[Pass, ...]:
    """Every pass in order. ``head`` is 'mean', 'class' or 'distill'.

    The first chooses another ``output``, so that no later one works for a part that goes.
    """
    return (
        *([OUTPUT_PASSES[output]] if output in OUTPUT_PASSES else []),
        fuse_batchnorm,
        fold_layernorm,
        bake_attention_bias,
        fold_scale,
        HEAD_PASSES[head],
        pool_early,
    )


def to_plain(
    model: LeViT, head: Head = "mean", output: Output = "logits", moved: float = 0.0
) -> LeViT:
    """Apply every pass in float64, and round to float32 once at the end.

    Before that, every number is moved by ``moved`` times the largest of its tensor. Returns a new
    float32 model in evaluation mode and leaves ``model`` untouched. Raises CheckpointError if a
    pass refuses, or if a folded weight is too large for float32.
    """
    plain = _in_float64(model)
    for apply in passes(head, output):
        kinds = _kinds(plain)
        plain = apply(plain)
        log.info("pass %s, modules replaced: %d", apply.__name__, _replaced(kinds, _kinds(plain)))
    if moved:
        _move(plain, moved)
    plain = plain.float()
    for name, tensor in plain.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{name} holds NaN or infinity in float32 after fusing. Expected finite weights, "
                "scaled by each BatchNorm into a sensible range. Check the training run that wrote "
                "the file."
            )
    return plain.eval()  # including the modules that the passes put in


def to_plain_float64(model: LeViT, head: Head = "mean") -> LeViT:
    """Apply every pass and keep the result in float64. ``model`` is untouched."""
    plain = _in_float64(model)
    for apply in passes(head):
        plain = apply(plain)
    return plain.eval()  # including the modules that the passes put in


def _in_float64(model: LeViT) -> LeViT:
    return copied(model).double().eval()


def _move(model: LeViT, part: float) -> None:
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return tensor + part * tensor.abs().max() if tensor.is_floating_point() else tensor

    for module in model.modules():  # in place it would move the input, which has the same tensors
        for parameter in module.parameters(recurse=False):
            parameter.data = moved(parameter.data)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, moved(buffer))


def _kinds(model: LeViT) -> dict[str, type]:
    """The kind of each module, without the tensors of a network that may go."""
    return {name: type(module) for name, module in model.named_modules()}


def _replaced(before: Mapping[str, type], after: Mapping[str, type]) -> int:
    """The number of modules that a pass replaced or removed, without the modules inside them."""
    replaced = {name for name, kind in before.items() if kind is not after.get(name)}
    return sum(name.rpartition(".")[0] not in replaced for name in replaced)
