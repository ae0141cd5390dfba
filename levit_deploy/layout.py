"""Lay out the trunk in one of two ways: tokens (B, N, C), or spatial (B, C, H, W).

A linear layer over tokens is a 1x1 convolution over the map they came from. So the same network can
keep the stem's layout to the end, without a transpose. A subsampling before the layer becomes the
stride of its convolution. ``--layout auto`` is each target's own ``auto_layout``.
"""

from __future__ import annotations

from torch import Tensor, nn

from levit_deploy.model import Attention, AttentionSubsample, LeViT, MeanPool, Subsample, ToTokens
from levit_deploy.passes.pool_early import PooledResidual
from levit_deploy.passes.replace import replace_modules
from levit_deploy.passes.stage_maps import ToMap


class SpatialAttention(nn.Module):
    """``Attention`` on a feature map: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.grid = attention.num_heads, attention.grid
        self.key_dim, self.value_dim = attention.key_dim, attention.value_dim
        self.norm = attention.norm
        self.qkv = attention.qkv
        self.scale = attention.scale
        self.attention_bias = attention.attention_bias
        self.proj = attention.proj

    def forward(self, x: Tensor) -> Tensor:
        qkv = (
            self.qkv(self.norm(x)).flatten(2).unflatten(1, (self.num_heads, -1))
        )  # B, h, 2k + d, N
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.value_dim], dim=2)
        scores = self.scale(q.transpose(2, 3) @ k) + self.attention_bias()  # B, h, N, N
        x = v @ scores.softmax(dim=-1).transpose(2, 3)  # B, h, d, N
        out: Tensor = self.proj(x.flatten(1, 2).unflatten(2, self.grid))
        return out


class SpatialAttentionSubsample(nn.Module):
    """``AttentionSubsample`` on a feature map: (B, C, H, W) -> (B, C', H', W').

    ``q`` is a 1x1 convolution with the subsampling's stride.
    """

    def __init__(self, attention: AttentionSubsample) -> None:
        super().__init__()
        self.num_heads, self.out_grid = attention.num_heads, attention.out_grid
        self.key_dim, self.value_dim = attention.key_dim, attention.value_dim
        self.kv = attention.kv
        self.q = attention.q
        self.scale = attention.scale
        self.attention_bias = attention.attention_bias
        self.proj = attention.proj

    def forward(self, x: Tensor) -> Tensor:
        kv = self.kv(x).flatten(2).unflatten(1, (self.num_heads, -1))  # B, h, k + d, N
        k, v = kv.split([self.key_dim, self.value_dim], dim=2)
        q = self.q(x).flatten(2).unflatten(1, (self.num_heads, -1))  # B, h, k, Nq
        scores = self.scale(q.transpose(2, 3) @ k) + self.attention_bias()  # B, h, Nq, N
        x = v @ scores.softmax(dim=-1).transpose(2, 3)  # B, h, d, Nq
        out: Tensor = self.proj(x.flatten(1, 2).unflatten(2, self.out_grid))
        return out


class SpatialLayerNorm(nn.Module):
    """LayerNorm over the channels: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


class SpatialMeanPool(nn.Module):
    """Average over the feature map: (B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class SpatialToMap(ToMap):
    """A feature map as it is: (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def to_spatial(model: LeViT) -> LeViT:
    """Return a copy of a plain model whose trunk keeps the stem's layout.

    Layers over pooled features, (B, C), stay linear.
    """
    pooled = {
        f"{name}.m.{len(block.m) - 1}"
        for name, block in model.named_modules()
        if isinstance(block, PooledResidual)
    }

    def convolution(linear: nn.Linear, name: str) -> nn.Module:
        trunk = name.startswith("blocks.") and name not in pooled
        return _as_convolution(linear) if trunk else linear

    model = replace_modules(model, nn.Linear, convolution)
    model = replace_modules(model, nn.LayerNorm, lambda leaf, _: SpatialLayerNorm(leaf))
    model = replace_modules(model, Attention, lambda leaf, _: SpatialAttention(leaf))
    model = replace_modules(model, AttentionSubsample, _spatial_subsample)
    model = replace_modules(model, ToMap, lambda leaf, _: SpatialToMap(leaf.grid))
    model = replace_modules(model, MeanPool, lambda _leaf, _: SpatialMeanPool())
    return replace_modules(model, ToTokens, lambda _leaf, _: nn.Identity()).eval()


def _as_convolution(linear: nn.Linear) -> nn.Conv2d:
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1)
    convolution.weight = nn.Parameter(linear.weight.detach()[:, :, None, None])
    convolution.bias = nn.Parameter(linear.bias.detach())
    return convolution


def _spatial_subsample(attention: AttentionSubsample, _name: str) -> SpatialAttentionSubsample:
    subsample, query = attention.q
    assert isinstance(subsample, Subsample)
    assert isinstance(query, nn.Conv2d)
    query.stride = (subsample.stride, subsample.stride)
    attention.q[0] = nn.Identity()
    return SpatialAttentionSubsample(attention)
