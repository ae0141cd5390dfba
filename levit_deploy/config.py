"""The architecture of a LeViT as data, and the five published variants by name."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from levit_deploy.choices import ACTIVATIONS

Grid = tuple[int, int]  # (height, width), in pixels or tokens

MAX_TOKENS = 4096  # attention needs memory for heads x tokens x tokens numbers

# The parts with a BatchNorm behind each of their linear maps, or before it in the heads. With
# 'layernorm', attention has a LayerNorm before its projection to q, k and v instead.
NORMS = {
    "batchnorm": {"stem", "attention", "subsampling", "mlp", "head"},  # the paper
    "layernorm": {"stem", "subsampling", "mlp", "head"},
    "batchnorm-in-attention": {"attention", "subsampling"},  # vit-pytorch
    "none": set[str](),  # fused by other code
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Attention and MLP blocks at one resolution.

    ``key_dim`` and ``value_dim`` are per head. ``mlp_dim`` is the hidden width of the MLP after
    each attention, or 0 if there is none.
    """

    dim: int
    depth: int
    num_heads: int
    key_dim: int
    value_dim: int
    mlp_dim: int


@dataclass(frozen=True, kw_only=True)
class Downsample:
    """Subsampling attention between two stages, and the MLP after it, if ``mlp_dim`` is not 0."""

    num_heads: int
    key_dim: int
    value_dim: int
    mlp_dim: int
    stride: int = 2


@dataclass(frozen=True, kw_only=True)
class LeViTConfig:
    """Everything needed to build a LeViT (Graham et al., arXiv 2104.01136, section 4).

    Attributes:
        image_size: (height, width) in pixels.
        num_classes: 0 if the network has no head, and gives its pooled features.
        stem_dims: The widths of the stride-2 convolutions. The last is the first stage's ``dim``.
        distillation: Whether the network has two heads.
        activation: That of the MLPs, and of the other parts unless they have their own.
        stem_activation: That of the stem, if another. It may be 'none'.
        attention_activation: That before attention's projection, if another. It may be 'none'.
        norm: A key of ``NORMS``.
        head_batchnorm: Whether heads have a BatchNorm, if not as in ``norm``.
        bias_over_scale: How often attention biases are divided by the scale of the scores: 1 in
            vit-pytorch, -1 in its 0.18.2, which multiplies them by the scale.
    """

    image_size: Grid
    in_channels: int
    num_classes: int
    stem_dims: tuple[int, ...]
    stages: tuple[Stage, ...]
    downsamples: tuple[Downsample, ...]
    distillation: bool = True
    activation: str = "hardswish"
    stem_activation: str | None = None
    attention_activation: str | None = None
    norm: str = "batchnorm"
    head_batchnorm: bool | None = None
    bias_over_scale: int = 0
    bn_eps: float = 1e-5
    ln_eps: float = 1e-5

    def __post_init__(self) -> None:
        if not self.stages or len(self.downsamples) != len(self.stages) - 1:
            raise ValueError(
                f"{len(self.stages)} stages need one downsampling between each two, "
                f"not {len(self.downsamples)}"
            )
        if not self.stem_dims or self.stem_dims[-1] != self.stages[0].dim:
            raise ValueError(
                f"the stem must end at the first stage's width {self.stages[0].dim}, "
                f"not {self.stem_dims}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is not one of {ACTIVATIONS}")
        for own in (self.stem_activation, self.attention_activation):
            if own not in (None, "none", *ACTIVATIONS):
                raise ValueError(f"activation {own!r} is not one of {('none', *ACTIVATIONS)}")
        if self.bias_over_scale not in (-1, 0, 1):
            raise ValueError(f"bias_over_scale is -1, 0 or 1, not {self.bias_over_scale!r}")
        if self.norm not in NORMS:
            raise ValueError(f"norm {self.norm!r} is not one of {tuple(NORMS)}")
        if len(self.image_size) != 2:
            raise ValueError(f"an image has a height and a width, not {self.image_size}")
        sizes = [*self.image_size, self.in_channels, *self.stem_dims]
        for stage in self.stages:
            sizes += [stage.dim, stage.depth, stage.num_heads, stage.key_dim, stage.value_dim]
        for down in self.downsamples:
            sizes += [down.num_heads, down.key_dim, down.value_dim, down.stride]
        may_be_0 = [self.num_classes, *(stage.mlp_dim for stage in self.stages)]
        may_be_0 += [down.mlp_dim for down in self.downsamples]
        if not all(isinstance(size, int) for size in (*sizes, *may_be_0)):
            raise ValueError("every size must be a whole number")
        if min(sizes) < 1 or min(may_be_0) < 0:
            raise ValueError("every size must be positive")
        if self.distillation and self.headless:
            raise ValueError("two heads need classes to tell apart, not 0")
        if (tokens := math.prod(self.resolutions[0])) > MAX_TOKENS:
            raise ValueError(
                f"{tokens} tokens behind the stem are more than the {MAX_TOKENS} of a 1024x1024 "
                "image, so the attention of one block does not fit into memory"
            )
        for name in ("bn_eps", "ln_eps"):
            eps = getattr(self, name)
            if not (math.isfinite(eps) and eps > 0):
                raise ValueError(f"{name} must be a positive number, not {eps}")

    @property
    def batchnorm_in_head(self) -> bool:
        """Whether a BatchNorm comes before the linear layer of a head."""
        usual = "head" in NORMS[self.norm]
        return usual if self.head_batchnorm is None else self.head_batchnorm

    @property
    def headless(self) -> bool:
        """Whether the network has no head."""
        return self.num_classes == 0

    @property
    def resolutions(self) -> tuple[Grid, ...]:
        """The token grid (height, width) of each stage."""
        height, width = self.image_size
        for _ in self.stem_dims:
            height, width = subsampled((height, width), 2)
        grids = [(height, width)]
        for down in self.downsamples:
            grids.append(subsampled(grids[-1], down.stride))
        return tuple(grids)

    @property
    def variant(self) -> str:
        """The published name (``'LeViT-256'``), or ``'custom'``.

        Classes, input channels, image size, heads and activation may differ from the published
        ones, as in a fine-tuned LeViT-256. A network with LayerNorm is always custom.
        """
        for name, published in (VARIANTS | TIMM_VARIANTS).items():
            if self.norm != "layernorm" and (self.stem_dims, self.stages, self.downsamples) == (
                published.stem_dims,
                published.stages,
                published.downsamples,
            ):
                return name
        return "custom"

    def replace(self, **changes: Any) -> LeViTConfig:
        """Return a copy with the given fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Serialise to one line of JSON with sorted keys, the same bytes every time."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> LeViTConfig:
        """Read the text of ``to_json``. Raises ValueError, TypeError or KeyError for any other."""
        fields = json.loads(text)
        fields["image_size"] = tuple(fields["image_size"])
        fields["stem_dims"] = tuple(fields["stem_dims"])
        fields["stages"] = tuple(Stage(**stage) for stage in fields["stages"])
        fields["downsamples"] = tuple(Downsample(**down) for down in fields["downsamples"])
        return cls(**fields)


def size_text(size: Grid) -> str:
    """A size in the words of the command line, height x width."""
    return f"{size[0]}x{size[1]}"


def subsampled(grid: Grid, stride: int) -> Grid:
    """The grid of every ``stride``-th row and column, starting with the first."""
    height, width = grid
    return (height - 1) // stride + 1, (width - 1) // stride + 1


def _published(
    dims: Sequence[int],
    key_dim: int,
    heads: Sequence[int],
    depths: Sequence[int],
    activation: str = "hardswish",
    stem_depth: int = 4,
) -> LeViTConfig:
    """A row of the paper's table 1, with the ratios of the official ``model_factory``."""
    stages = tuple(
        Stage(
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=2 * key_dim,
            mlp_dim=2 * dim,
        )
        for dim, depth, num_heads in zip(dims, depths, heads, strict=True)
    )
    downsamples = tuple(
        Downsample(
            num_heads=dim // key_dim, key_dim=key_dim, value_dim=4 * key_dim, mlp_dim=2 * next_dim
        )
        for dim, next_dim in itertools.pairwise(dims)
    )
    return LeViTConfig(
        image_size=(224, 224),
        in_channels=3,
        num_classes=1000,
        stem_dims=tuple(dims[0] // 2**i for i in reversed(range(stem_depth))),
        stages=stages,
        downsamples=downsamples,
        activation=activation,
    )


VARIANTS = {
    "LeViT-128S": _published((128, 256, 384), 16, (4, 6, 8), (2, 3, 4)),
    "LeViT-128": _published((128, 256, 384), 16, (4, 8, 12), (4, 4, 4)),
    "LeViT-192": _published((192, 288, 384), 32, (3, 5, 6), (4, 4, 4)),
    "LeViT-256": _published((256, 384, 512), 32, (4, 6, 8), (4, 4, 4)),
    "LeViT-384": _published((384, 512, 768), 32, (6, 9, 12), (4, 4, 4)),
}

# timm's own, in timm/models/levit.py (model_cfgs), with other widths, depths, stems and SiLU.
TIMM_VARIANTS = {
    "levit_384_s8": _published((384, 512, 768), 32, (6, 9, 12), (4, 4, 4), "silu", 3),
    "levit_512_s8": _published((512, 640, 896), 64, (8, 10, 14), (4, 4, 4), "silu", 3),
    "levit_512": _published((512, 768, 1024), 64, (8, 12, 16), (4, 4, 4), "silu"),
    "levit_256d": _published((256, 384, 512), 32, (4, 6, 8), (4, 8, 6), "silu"),
    "levit_512d": _published((512, 640, 768), 64, (8, 10, 12), (4, 8, 6), "silu"),
}
