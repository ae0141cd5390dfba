"""Write a plain model as TorchScript: traced, frozen, the same bytes every time."""

import copy
import io
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance

PROVENANCE_FILE = "provenance.json"  # in the archive


class InBfloat16(nn.Module):
    """A network that computes in bfloat16 between float32 images and float32 outputs."""

    def __init__(self, model: LeViT) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).bfloat16()

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


def _with_ends(network: nn.Module, provenance: Provenance) -> nn.Module:
    """The network with the input and output of its interface."""
    modules = [network]
    if provenance.interface.input == "uint8":
        statistics = provenance.transform.statistics()
        modules.insert(0, Normalise(*statistics))
    if provenance.interface.output == "probabilities":
        modules.append(nn.Softmax(dim=1))
    return nn.Sequential(*modules).eval() if len(modules) > 1 else network


def to_torchscript(model: LeViT, provenance: Provenance) -> bytes:
    """Trace and freeze a plain float32 model in either layout.

    The program maps float32 (batch, channels, height, width) to float32 logits (batch, classes) for
    any batch, or has another input or output, as the provenance's interface says. Feature maps are
    a tuple in the order of the stages. The program computes in the provenance's precision, and
    needs nothing but torch. The provenance is in the extra file ``provenance.json``. Raises
    UsageError if the pixels' mean and standard deviation are not known.
    """
    interface = provenance.interface
    network = InBfloat16(model).eval() if provenance.precision == "bf16" else model
    program = _with_ends(network, provenance)
    shape = interface.image_shape(provenance.config)
    example = torch.zeros(2, *shape, dtype=getattr(torch, interface.input))
    buffer = io.BytesIO()
    with deprecation_accepted():
        traced = torch.jit.trace(program, example, check_trace=False)  # verify does the checking
        frozen = torch.jit.freeze(traced)
        extra = {PROVENANCE_FILE: json.dumps(provenance.to_metadata(), sort_keys=True)}
        torch.jit.save(frozen, buffer, _extra_files=extra)
    return _canonical(buffer)


def _canonical(archive: io.BytesIO) -> bytes:
    """Rewrite a TorchScript archive without the parts that differ between processes.

    torch numbers its class names by how many classes the process has traced before, and stores
    the path of the Python source on this machine. Neither says anything about the network.
    """
    archive.seek(0)
    reader = torch._C.PyTorchFileReader(archive)
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name in reader.get_all_records():
        if name.endswith(".debug_pkl") or name in _WRITTEN_BY_THE_WRITER:
            continue
        record = reader.get_record(name)
        if name.startswith("code/") or name.endswith(".pkl"):
            record = _MANGLING.sub(b"", record)
        name = _MANGLING.sub(b"", name.encode()).decode()
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


_WRITTEN_BY_THE_WRITER = {"version", "byteorder", ".data/serialization_id"}
_MANGLING = re.compile(rb"(?:\.|/)?___torch_mangle_\d+")


@contextmanager
def deprecation_accepted() -> Iterator[None]:
    """Silence torch's advice to leave TorchScript: the user asked for it by name."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # before torch 2.14, and from it on
            warnings.filterwarnings("ignore", r"`torch\.jit\.", category)
        yield
