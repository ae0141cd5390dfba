"""The network as torch's own formats hold it: in its precision, with its input and output."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from levit_deploy.model import LeViT
from levit_deploy.passes.replace import copied
from levit_deploy.provenance import Provenance


class InBfloat16(nn.Module):
    """A network that computes in bfloat16 between float32 images and float32 outputs."""

    def __init__(self, model: LeViT) -> None:
        super().__init__()
        self.model = copied(model).bfloat16()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs: Tensor | tuple[Tensor, ...] = self.model(x.bfloat16())
        if isinstance(outputs, tuple):
            return tuple(output.float() for output in outputs)
        return outputs.float()


class Normalise(nn.Module):
    """Normalise the bytes of a camera.

    uint8 (B, H, W, C) -> float32 (B, C, H, W), as ``onnx_interface.normalised_pixels``.
    """

    def __init__(self, mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]) -> None:
        super().__init__()
        for name, values in (("offset", 255 * mean), ("factor", 1 / (255 * std))):
            self.register_buffer(name, torch.from_numpy(values).float()[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).contiguous().float()
        return (x - self.get_buffer("offset")) * self.get_buffer("factor")


def with_ends(model: LeViT, provenance: Provenance) -> nn.Module:
    """Return a plain network in the precision, and with the input and output, of its provenance.

    Raises UsageError if it takes bytes, and their mean and standard deviation are not known.
    """
    network = InBfloat16(model).eval() if provenance.precision == "bf16" else model
    modules: list[nn.Module] = [network]
    if provenance.interface.input == "uint8":
        modules.insert(0, Normalise(*provenance.transform.statistics()))
    if provenance.interface.output == "probabilities":
        modules.append(nn.Softmax(dim=1))
    return nn.Sequential(*modules).eval() if len(modules) > 1 else network


def example(provenance: Provenance) -> Tensor:
    """Return two images to trace the network with, as it takes them: one would fix the batch."""
    shape = provenance.interface.image_shape(provenance.config)
    return torch.zeros(2, *shape, dtype=getattr(torch, provenance.interface.input))
