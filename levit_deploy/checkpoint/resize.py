"""Take a LeViT to another image size than it was trained at.

Only the attention biases depend on the size: one number for each offset |dy|, |dx| of two tokens.
They are interpolated bilinearly over the offsets, corner to corner. So a token keeps its bias for
itself, and the farthest offset of the old grid becomes the farthest of the new one.
"""

import torch
from torch import Tensor
from torch.nn import functional

from levit_deploy.config import Grid, LeViTConfig, size_text
from levit_deploy.errors import UsageError
from levit_deploy.model import Attention, AttentionSubsample, LeViT


def resize(model: LeViT, config: LeViTConfig, image_size: Grid) -> tuple[LeViT, LeViTConfig]:
    """Return a training-form model for images of (height, width), and its config.

    ``model`` is untouched. Raises UsageError for a size that fits no memory.
    """
    try:
        resized_config = config.replace(image_size=image_size)
    except ValueError as error:
        raise UsageError(f"--image-size {size_text(image_size)}: {error}.") from error
    resized = LeViT(resized_config).eval()
    state = model.state_dict()
    with torch.no_grad():
        for name, module in resized.named_modules():
            if isinstance(module, Attention | AttentionSubsample):
                trained = model.get_submodule(name)
                assert isinstance(trained, Attention | AttentionSubsample)
                key = f"{name}.attention_biases"
                state[key] = interpolate_biases(state[key], trained.grid, module.grid)
                state[f"{name}.attention_bias_idxs"] = module.attention_bias.idxs
    resized.load_state_dict(state)
    return resized, resized_config


def interpolate_biases(biases: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """Interpolate biases by offset: (heads, H * W) -> (heads, H' * W'), in the same dtype."""
    table = biases.double().unflatten(1, grid)[None]  # 1, heads, H, W
    table = functional.interpolate(table, new_grid, mode="bilinear", align_corners=True)
    return table[0].flatten(1).to(biases.dtype)
