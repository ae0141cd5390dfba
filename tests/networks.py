"""Networks to test with: odd architectures, and nothing left at its initial value.

A fresh LeViT is a trap: its residual branches are multiplied by 0, its BatchNorm statistics are 0
and 1 and its attention biases 0, so that a broken fusion passes.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from levit_deploy.checkpoint.infer import Known
from levit_deploy.choices import ACTIVATIONS
from levit_deploy.config import NORMS, Downsample, LeViTConfig, Stage
from levit_deploy.model import AttentionBias, LeViT

GOLDENS = Path(__file__).parent / "goldens"

# Three stages, rectangular, every width different from every other: a mixed-up axis shows.
SMALL = LeViTConfig(
    image_size=(64, 96),
    in_channels=3,
    num_classes=7,
    stem_dims=(2, 4, 6, 12),
    stages=(
        Stage(dim=12, depth=2, num_heads=3, key_dim=4, value_dim=10, mlp_dim=20),
        Stage(dim=16, depth=1, num_heads=2, key_dim=8, value_dim=6, mlp_dim=28),
        Stage(dim=18, depth=1, num_heads=4, key_dim=4, value_dim=8, mlp_dim=30),
    ),
    downsamples=(
        Downsample(num_heads=5, key_dim=4, value_dim=12, mlp_dim=32),
        Downsample(num_heads=3, key_dim=8, value_dim=14, mlp_dim=0),
    ),
)

# a block of each kind, for what writes the network again and again or takes long for each block
SHALLOW = SMALL.replace(
    stages=(dataclasses.replace(SMALL.stages[0], depth=1), SMALL.stages[1]),
    downsamples=SMALL.downsamples[:1],
)

TINY = SMALL.replace(
    image_size=(32, 32),
    stem_dims=(4, 8),
    stages=(Stage(dim=8, depth=1, num_heads=1, key_dim=4, value_dim=8, mlp_dim=16),),
    downsamples=(),
)


def trained(config: LeViTConfig = SMALL, seed: int = 0) -> LeViT:
    """A float32 network in evaluation mode with every parameter and statistic random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LeViT(config).eval()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.3)
                    module.running_mean.normal_(0, 0.3)
                    module.running_var.uniform_(0.3, 2)
                elif isinstance(module, AttentionBias):
                    module.biases.normal_(0, 1 / module.factor)
                elif isinstance(module, nn.LayerNorm):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.3)
                elif isinstance(module, nn.Conv2d | nn.Linear):
                    # so that the images, not the biases, decide the logits
                    module.weight.normal_(0, module.weight[0].numel() ** -0.5)
                    if module.bias is not None:
                        module.bias.normal_(0, 0.1)
    return model


def images(config: LeViTConfig = SMALL, n: int = 3, seed: int = 1) -> torch.Tensor:
    """Normal noise: float32 (n, channels, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, config.in_channels, *config.image_size, generator=generator)


def float64_logits(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """What a model computes in float64, without touching the model."""
    import copy

    with torch.inference_mode():
        return copy.deepcopy(model).double()(x.double()).numpy()


@st.composite
def configs(draw: Any) -> LeViTConfig:
    """Any small LeViT: one to three stages, with or without MLPs, one head or two, rectangular.

    With the layers of any family, in any combination.
    """
    stages = draw(st.integers(1, 3))
    dims = draw(st.lists(st.integers(3, 24), min_size=stages, max_size=stages))
    stem = draw(st.lists(st.integers(1, 6), max_size=3))
    heads, widths = st.integers(1, 4), st.integers(1, 9)
    side = st.integers(1, 5)
    scale = 2 ** (len(stem) + 1)
    return LeViTConfig(
        image_size=(scale * draw(side), scale * draw(side)),
        in_channels=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(1, 12)),
        stem_dims=(*stem, dims[0]),
        stages=tuple(
            Stage(
                dim=dim,
                depth=draw(st.integers(1, 2)),
                num_heads=draw(heads),
                key_dim=draw(widths),
                value_dim=draw(widths),
                mlp_dim=draw(st.integers(0, 20)),
            )
            for dim in dims
        ),
        downsamples=tuple(
            Downsample(
                num_heads=draw(heads),
                key_dim=draw(widths),
                value_dim=draw(widths),
                mlp_dim=draw(st.integers(0, 20)),
            )
            for _ in dims[1:]
        ),
        distillation=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        stem_activation=draw(st.sampled_from([None, "none", *ACTIVATIONS])),
        attention_activation=draw(st.sampled_from([None, "none", *ACTIVATIONS])),
        norm=draw(st.sampled_from(sorted(NORMS))),
        bias_over_scale=draw(st.booleans()),
    )


def known(config: LeViTConfig) -> Known:
    """What a reader would have to know of a network, as its tensors do not tell."""
    return Known(
        activation=config.activation,
        stem_activation=config.stem_activation,
        attention_activation=config.attention_activation,
        bias_over_scale=config.bias_over_scale,
    )


def golden(name: str) -> tuple[Path, np.ndarray, np.ndarray]:
    """What upstream code saved: the file or folder, three inputs, upstream's float64 logits."""
    folder = GOLDENS / name
    expected = np.load(folder / "expected.npz")
    if (folder / "config.json").exists():
        return folder, expected["input"], expected["logits_float64"]
    (path,) = [*folder.glob("*.pth"), *folder.glob("*.safetensors")]
    return path, expected["input"], expected["logits_float64"]
