"""The network in the words of XNNPACK, so that it runs as one piece, outside no operator.

XNNPACK knows no split, no expand (torch's way to multiply in four dimensions), no step in a slice
and no mean over tokens. Each is written here as something that it knows, and that is exact:

    q, k and v as three products, of the rows of one weight
    heads beside the batch, so that attention multiplies in three dimensions
    every second row and column as the first of each pair
    the mean over the tokens as their product with 1 / N

Shapes are those of ``model.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from levit_deploy.model import Attention, AttentionSubsample, LeViT, MeanPool, Subsample
from levit_deploy.passes.replace import replace_modules
from levit_deploy.provenance import Provenance


def with_ends(model: LeViT, provenance: Provenance, batch_size: int) -> nn.Module:
    """Return a plain network for XNNPACK, with the input and output of its provenance.

    Raises UsageError if it takes bytes, and their mean and standard deviation are not known.
    """
    modules: list[nn.Module] = [for_xnnpack(model, batch_size)]
    if provenance.interface.input == "uint8":
        modules.insert(0, Normalise(*provenance.transform.statistics()))
    if provenance.interface.output == "probabilities":
        modules.append(nn.Softmax(dim=1))
    return nn.Sequential(*modules).eval()


def for_xnnpack(model: LeViT, batch_size: int) -> LeViT:
    """Return a copy of a plain model in tokens that XNNPACK runs whole."""
    model = replace_modules(model, Attention, lambda leaf, _: XnnpackAttention.of(leaf))
    model = replace_modules(
        model, AttentionSubsample, lambda leaf, _: XnnpackAttention.of_subsampling(leaf)
    )
    return replace_modules(
        model, MeanPool, lambda leaf, _: MeanProduct(leaf.tokens, batch_size)
    ).eval()


class XnnpackAttention(nn.Module):
    """``Attention`` and ``AttentionSubsample``: (B, N, C) -> (B, Nq, C')."""

    def __init__(
        self,
        attention: Attention | AttentionSubsample,
        norm: nn.Module,
        subsample: nn.Module,
        products: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.norm, self.subsample = norm, subsample
        self.q, self.k, self.v = products
        self.attention_bias, self.proj = attention.attention_bias, attention.proj

    @classmethod
    def of(cls, attention: Attention) -> XnnpackAttention:
        """The same attention over all tokens."""
        k, d = attention.key_dim, attention.value_dim
        products = _by_kind(attention.qkv, attention.num_heads, (k, k, d))
        return cls(attention, attention.norm, nn.Identity(), products)

    @classmethod
    def of_subsampling(cls, attention: AttentionSubsample) -> XnnpackAttention:
        """The same attention of a subsampled grid."""
        subsample, q = attention.q
        assert isinstance(subsample, Subsample)
        widths = attention.key_dim, attention.value_dim
        products = (q, *_by_kind(attention.kv, attention.num_heads, widths))
        return cls(attention, nn.Identity(), FirstOfEach(subsample), products)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        q = self._heads(self.q(self.subsample(x)), (1, 0, 2))  # B * h, Nq, k
        k = self._heads(self.k(x), (1, 2, 0))  # B * h, k, N
        v = self._heads(self.v(x), (1, 0, 2))  # B * h, N, d
        bias: Tensor = self.attention_bias()  # h, Nq, N
        images, scores = len(x), torch.bmm(q, k)
        if images == 1:
            scores = scores + bias
        else:
            scores = (scores.unflatten(0, (images, -1)) + bias).flatten(0, 1)
        x = torch.bmm(scores.softmax(dim=-1), v)  # B * h, Nq, d
        if images == 1:
            x = x.permute(1, 0, 2).reshape(1, q.shape[1], -1)
        else:
            x = x.unflatten(0, (images, -1)).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(x)  # of B, Nq, h * d
        return out

    def _heads(self, x: Tensor, order: tuple[int, int, int]) -> Tensor:
        """(B, N, h * w) with its axes N, h, w in another order, which begins with h, beside B.

        An image alone needs no copy to put the heads beside it.
        """
        if len(x) == 1:
            return x.view(x.shape[1], self.num_heads, -1).permute(order)
        x = x.unflatten(2, (self.num_heads, -1))
        return x.permute(0, *(axis + 1 for axis in order)).flatten(0, 1)


class FirstOfEach(nn.Module):
    """``Subsample`` by slices without a step: (B, N, C) -> (B, Nq, C)."""

    def __init__(self, subsample: Subsample) -> None:
        super().__init__()
        self.grid, self.stride = subsample.grid, subsample.stride

    def forward(self, x: Tensor) -> Tensor:
        images, _, channels = x.shape
        x = x.unflatten(1, self.grid)  # B, H, W, C
        beyond = [-side % self.stride for side in self.grid]
        if any(beyond):  # rows and columns that no query comes from
            x = functional.pad(x, (0, 0, 0, beyond[1], 0, beyond[0]))
        height, width = (-(-side // self.stride) for side in self.grid)
        x = x.reshape(images, height, self.stride, width, self.stride * channels)
        return x[:, :, :1, :, :channels].reshape(images, height * width, channels)


class MeanProduct(nn.Module):
    """``MeanPool`` as a product: (B, N, C) -> (B, C)."""

    def __init__(self, tokens: int, batch_size: int) -> None:
        super().__init__()
        self.register_buffer("share", torch.full((batch_size, 1, tokens), 1 / tokens))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(self.get_buffer("share"), x).flatten(1)


class Normalise(nn.Module):
    """Normalise the bytes of a camera: uint8 (B, H, W, C) -> float32 (B, C, H, W).

    As ``onnx_interface.normalised_pixels``. The axes are turned as floats, which XNNPACK does.
    """

    def __init__(self, mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]) -> None:
        super().__init__()
        for name, values in (("offset", 255 * mean), ("factor", 1 / (255 * std))):
            self.register_buffer(name, torch.from_numpy(values).float())

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.float() - self.get_buffer("offset")) * self.get_buffer("factor")
        return x.permute(0, 3, 1, 2)


def _by_kind(product: nn.Module, heads: int, widths: Sequence[int]) -> list[nn.Linear]:
    """The parts of a product whose rows are ordered by head, then by kind, each of a width."""
    assert isinstance(product, nn.Linear)
    kinds = product.weight.detach().unflatten(0, (heads, -1)).split(list(widths), dim=1)
    biases = product.bias.detach().unflatten(0, (heads, -1)).split(list(widths), dim=1)
    return [
        _linear(weight.flatten(0, 1), bias.flatten())
        for weight, bias in zip(kinds, biases, strict=True)
    ]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear
