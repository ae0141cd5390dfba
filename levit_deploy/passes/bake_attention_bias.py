"""Gather every attention bias once, instead of at every call.

The bias of a (query, key) pair depends on their offset alone (arXiv 2104.01136, section 4.2). The
gathered table, heads x Nq x Nk, is a constant for a fixed image size.
"""

from __future__ import annotations

from torch import Tensor, nn

from levit_deploy.model import AttentionBias, LeViT
from levit_deploy.passes.replace import replace_modules


class AttentionBiasTable(nn.Module):
    """The gathered bias as a constant: () -> (h, Nq, Nk)."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self) -> Tensor:
        return self.table


def bake_attention_bias(model: LeViT) -> LeViT:
    """Replace every ``AttentionBias`` by an ``AttentionBiasTable``."""
    return replace_modules(model, AttentionBias, _gathered)


def _gathered(leaf: AttentionBias, _name: str) -> AttentionBiasTable:
    return AttentionBiasTable(leaf().detach().clone())
