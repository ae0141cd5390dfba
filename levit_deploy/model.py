"""LeViT in training form, which checkpoints store and every artifact is compared with.

Graham et al., "LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference", ICCV 2021,
arXiv 2104.01136. Parameter names are those of the official ``levit.py``, so an official file
loads as it is.

Parts that only training needs are leaves: ``Conv2d_BN``, ``Linear_BN``, ``BN_Linear``,
``AttentionBias``, ``Scale`` and the second head. The passes put plain modules in their place.
No ``forward`` here knows whether that has happened.

Other implementations build some layers differently. The config describes the difference (``norm``,
the activations, ``bias_over_scale``), and only the choice of leaf depends on it.

Shapes: B batch, C channels, H and W the token grid, N = H * W tokens, h heads,
k and d the key and value widths per head, Nq and Nk the numbers of queries and keys.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from levit_deploy.config import NORMS, Downsample, Grid, LeViTConfig, Stage, subsampled

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "none": nn.Identity,
}


class Conv2d_BN(nn.Sequential):
    """A bias-free 3x3 convolution of stride 2, then BatchNorm: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, in_channels: int, out_channels: int, eps: float) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=eps)


class Linear_BN(nn.Sequential):
    """A linear layer, then BatchNorm over the channels: (B, N, C) -> (B, N, C').

    The linear layer has no bias, as BatchNorm would undo it, except in vit-pytorch.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        eps: float,
        bn_weight: float = 1.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.c = nn.Linear(in_features, out_features, bias=bias)
        self.bn = nn.BatchNorm1d(out_features, eps=eps)
        nn.init.constant_(self.bn.weight, bn_weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        normalised: Tensor = self.bn(x.flatten(0, 1))  # BatchNorm1d wants (B * N, C')
        return normalised.reshape_as(x)


class BN_Linear(nn.Sequential):
    """BatchNorm, then a linear layer, as a classifier head: (B, C) -> (B, classes)."""

    def __init__(self, in_features: int, out_features: int, eps: float) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(in_features, eps=eps)
        self.l = nn.Linear(in_features, out_features)
        nn.init.trunc_normal_(self.l.weight, std=0.02)
        nn.init.zeros_(self.l.bias)


class Scale(nn.Module):
    """Multiply by a constant: the key_dim^-0.5 of the attention scores."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class AttentionBias(nn.Module):
    """The learned bias of every (query, key) pair, gathered by offset: () -> (h, Nq, Nk).

    Each head has one number for each |dy|, |dx| (section 4.2 of the paper), in row-major order
    |dy| * W + |dx|, times ``factor``. It is gathered at every call, so it follows weights loaded at
    any time.
    """

    idxs: Tensor

    def __init__(self, num_heads: int, grid: Grid, stride: int, factor: float = 1.0) -> None:
        super().__init__()
        self.grid, self.stride, self.factor = grid, stride, factor
        self.biases = nn.Parameter(torch.zeros(num_heads, grid[0] * grid[1]))
        self.register_buffer("idxs", offset_indices(grid, stride))

    def forward(self) -> Tensor:
        return self.biases[:, self.idxs] * self.factor


def offset_indices(grid: Grid, stride: int) -> Tensor:
    """The offset between each query and key, as an index |dy| * W + |dx|: int64 (Nq, Nk).

    Keys stand on every point of ``grid`` (height, width), queries on every ``stride``-th.
    """
    height, width = grid
    if torch.get_default_device().type == "meta":  # to subtract, torch imports its compiler there
        queries = len(range(0, height, stride)) * len(range(0, width, stride))
        return torch.empty(queries, height * width, dtype=torch.int64)
    dy = (torch.arange(0, height, stride)[:, None] - torch.arange(height)).abs()  # Hq, H
    dx = (torch.arange(0, width, stride)[:, None] - torch.arange(width)).abs()  # Wq, W
    pairs = dy[:, None, :, None] * width + dx[None, :, None, :]  # Hq, Wq, H, W
    return pairs.reshape(dy.shape[0] * dx.shape[0], height * width)


class Attention(nn.Module):
    """Multi-head attention with a bias per offset: (B, N, C) -> (B, N, C).

    The rows of ``qkv`` are ordered by head, with each head's q, k and v together. ``norm`` is the
    identity unless a LayerNorm comes before ``qkv``.
    """

    def __init__(self, stage: Stage, grid: Grid, config: LeViTConfig) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim = (
            stage.num_heads,
            stage.key_dim,
            stage.value_dim,
        )
        self.grid, self.tokens = grid, grid[0] * grid[1]
        layernorm = config.norm == "layernorm"
        self.norm = nn.LayerNorm(stage.dim, eps=config.ln_eps) if layernorm else nn.Identity()
        rows = self.num_heads * (2 * self.key_dim + self.value_dim)
        self.qkv = linear("attention", stage.dim, rows, config)
        self.scale = Scale(self.key_dim**-0.5)
        self.attention_bias = AttentionBias(
            self.num_heads, grid, stride=1, factor=bias_factor(self.key_dim, config)
        )
        values = self.num_heads * self.value_dim
        self.proj = projection("attention", values, stage.dim, config, bn_weight=0.0)

    def forward(self, x: Tensor) -> Tensor:
        rows = 2 * self.key_dim + self.value_dim
        qkv = self.qkv(self.norm(x)).view(-1, self.tokens, self.num_heads, rows)
        q, k, v = qkv.transpose(1, 2).split([self.key_dim, self.key_dim, self.value_dim], dim=3)
        scores = self.scale(q @ k.transpose(2, 3)) + self.attention_bias()  # B, h, N, N
        x = scores.softmax(dim=-1) @ v  # B, h, N, d
        x = x.transpose(1, 2).reshape(-1, self.tokens, self.num_heads * self.value_dim)
        out: Tensor = self.proj(x)
        return out


class Subsample(nn.Module):
    """Keep every ``stride``-th row and column of the token grid: (B, N, C) -> (B, Nq, C)."""

    def __init__(self, grid: Grid, stride: int) -> None:
        super().__init__()
        self.grid, self.stride = grid, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, self.grid)  # B, H, W, C
        return x[:, :: self.stride, :: self.stride].flatten(1, 2)


class AttentionSubsample(nn.Module):
    """Attention whose queries are a subsampled grid: (B, N, C) -> (B, Nq, C').

    The rows of ``kv`` are ordered by head, with each head's k and v together.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        down: Downsample,
        grid: Grid,
        config: LeViTConfig,
    ) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.value_dim = down.num_heads, down.key_dim, down.value_dim
        self.grid, self.out_grid = grid, subsampled(grid, down.stride)
        self.tokens, self.out_tokens = grid[0] * grid[1], self.out_grid[0] * self.out_grid[1]
        rows = self.num_heads * (self.key_dim + self.value_dim)
        self.kv = linear("subsampling", dim, rows, config)
        self.q = nn.Sequential(
            Subsample(grid, down.stride),
            linear("subsampling", dim, self.num_heads * self.key_dim, config),
        )
        self.scale = Scale(self.key_dim**-0.5)
        self.attention_bias = AttentionBias(
            self.num_heads, grid, down.stride, factor=bias_factor(self.key_dim, config)
        )
        values = self.num_heads * self.value_dim
        self.proj = projection("subsampling", values, out_dim, config)

    def forward(self, x: Tensor) -> Tensor:
        kv = self.kv(x).view(-1, self.tokens, self.num_heads, self.key_dim + self.value_dim)
        k, v = kv.transpose(1, 2).split([self.key_dim, self.value_dim], dim=3)
        q = self.q(x).view(-1, self.out_tokens, self.num_heads, self.key_dim).transpose(1, 2)
        scores = self.scale(q @ k.transpose(2, 3)) + self.attention_bias()  # B, h, Nq, N
        x = scores.softmax(dim=-1) @ v  # B, h, Nq, d
        x = x.transpose(1, 2).reshape(-1, self.out_tokens, self.num_heads * self.value_dim)
        out: Tensor = self.proj(x)
        return out


class Residual(nn.Module):
    """x + m(x)."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.m(x)
        return out


class ToTokens(nn.Module):
    """Flatten the stem's feature map: (B, C, H, W) -> (B, N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        # element-wise operations and residual branches would keep the strides, and torch computes
        # linear layers over strided rows more slowly
        return x.flatten(2).transpose(1, 2).contiguous()


class MeanPool(nn.Module):
    """Average over the tokens: (B, N, C) -> (B, C)."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def linear(
    part: str,
    in_features: int,
    out_features: int,
    config: LeViTConfig,
    *,
    bn_weight: float = 1.0,
    bias: bool = False,
) -> nn.Module:
    """A linear layer of the trunk, with a BatchNorm if ``part`` has one, else with a bias."""
    if part in NORMS[config.norm]:
        return Linear_BN(in_features, out_features, config.bn_eps, bn_weight, bias)
    return nn.Linear(in_features, out_features)


def projection(
    part: str, in_features: int, out_features: int, config: LeViTConfig, bn_weight: float = 1.0
) -> nn.Sequential:
    """The activation and linear layer after attention: (B, N, C) -> (B, N, C')."""
    if config.norm == "layernorm" and part == "attention":
        activation = "none"
    else:
        activation = config.attention_activation or config.activation
    bias = config.norm == "batchnorm-in-attention"
    return nn.Sequential(
        ACTIVATION_MODULES[activation](),
        linear(part, in_features, out_features, config, bn_weight=bn_weight, bias=bias),
    )


def bias_factor(key_dim: int, config: LeViTConfig) -> float:
    """The factor of attention biases, a power of the scale key_dim^-0.5."""
    return float(key_dim ** (0.5 * config.bias_over_scale))


def mlp(dim: int, hidden_dim: int, config: LeViTConfig) -> nn.Sequential:
    """Two linear layers with an activation between: (B, N, C) -> (B, N, C)."""
    return nn.Sequential(
        linear("mlp", dim, hidden_dim, config),
        ACTIVATION_MODULES[config.activation](),
        linear("mlp", hidden_dim, dim, config, bn_weight=0.0),
    )


def stem(config: LeViTConfig) -> nn.Sequential:
    """Convolutions of stride 2, activations between: (B, C, H, W) -> (B, C', H', W')."""
    activation = config.stem_activation or config.activation
    layers: list[nn.Module] = []
    for in_dim, out_dim in itertools.pairwise((config.in_channels, *config.stem_dims)):
        if "stem" in NORMS[config.norm]:
            layers.append(Conv2d_BN(in_dim, out_dim, config.bn_eps))
        else:
            layers.append(nn.Conv2d(in_dim, out_dim, 3, stride=2, padding=1))
        layers.append(ACTIVATION_MODULES[activation]())
    return nn.Sequential(*layers[:-1])


def classifier(config: LeViTConfig) -> nn.Module:
    """One head, (B, C) -> (B, classes), or none: (B, C) -> (B, C)."""
    dim, classes = config.stages[-1].dim, config.num_classes
    if config.headless:
        return nn.Identity()
    if config.batchnorm_in_head:
        return BN_Linear(dim, classes, config.bn_eps)
    return nn.Linear(dim, classes)


class LeViT(nn.Module):
    """The whole network: float (B, in_channels, height, width) -> logits (B, classes).

    In training mode a network with two heads returns both logits, for the distillation loss. In
    evaluation mode it returns their mean. A network without a head returns its pooled features.
    """

    def __init__(self, config: LeViTConfig) -> None:
        super().__init__()
        self.patch_embed = stem(config)
        self.to_tokens = ToTokens()

        blocks: list[nn.Module] = []
        for i, (stage, grid) in enumerate(zip(config.stages, config.resolutions, strict=True)):
            for _ in range(stage.depth):
                blocks.append(Residual(Attention(stage, grid, config)))
                if stage.mlp_dim:
                    blocks.append(Residual(mlp(stage.dim, stage.mlp_dim, config)))
            if i < len(config.downsamples):
                down, out_dim = config.downsamples[i], config.stages[i + 1].dim
                blocks.append(AttentionSubsample(stage.dim, out_dim, down, grid, config))
                if down.mlp_dim:
                    blocks.append(Residual(mlp(out_dim, down.mlp_dim, config)))
        self.blocks = nn.Sequential(*blocks)

        height, width = config.resolutions[-1]
        self.pool: nn.Module = MeanPool(height * width)
        self.head = classifier(config)
        self.head_dist = classifier(config) if config.distillation else None
        self.register_state_dict_post_hook(_write_official_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_read_official_names)  # type: ignore[no-untyped-call]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the pooled features: (B, in_channels, height, width) -> (B, C)."""
        x = self.to_tokens(self.patch_embed(x))
        features: Tensor = self.pool(self.blocks(x))
        return features

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.forward_features(x)
        logits: Tensor = self.head(features)
        if self.head_dist is None:
            return logits
        distilled: Tensor = self.head_dist(features)
        return (logits, distilled) if self.training else (logits + distilled) / 2


# The official code keeps the bias table on the attention module itself. Here it is a leaf, so a
# pass can replace it. State dicts use the official names.
_OFFICIAL_SUFFIXES = {
    ".attention_bias.biases": ".attention_biases",
    ".attention_bias.idxs": ".attention_bias_idxs",
}


def _write_official_names(
    _module: nn.Module, state_dict: dict[str, Tensor], _prefix: str, _metadata: Any
) -> None:
    _rename_suffixes(state_dict, _OFFICIAL_SUFFIXES)


def _read_official_names(
    _module: nn.Module, state_dict: dict[str, Tensor], *_unused: object
) -> None:
    _rename_suffixes(state_dict, {new: old for old, new in _OFFICIAL_SUFFIXES.items()})


def _rename_suffixes(state_dict: dict[str, Tensor], suffixes: dict[str, str]) -> None:
    """Rename in place and keep the order of the keys."""
    items = list(state_dict.items())
    state_dict.clear()
    for key, value in items:
        for old, new in suffixes.items():
            if key.endswith(old):
                key = key.removesuffix(old) + new
        state_dict[key] = value
