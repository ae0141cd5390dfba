"""Write a plain model as TorchScript: traced, frozen, the same bytes every time."""

from __future__ import annotations

import copy
import io
import json
import re

import torch
from torch import Tensor, nn

from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.runtime.artifact import PROVENANCE_FILE, deprecation_accepted


class InBfloat16(nn.Module):
    """A network that computes in bfloat16 between float32 images and float32 logits."""

    def __init__(self, model: LeViT) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x.bfloat16())
        return logits.float()


def to_torchscript(model: LeViT, provenance: Provenance) -> bytes:
    """Trace and freeze a plain float32 model in either layout.

    The program maps float32 (batch, channels, height, width) to float32 (batch, classes) for any
    batch, computes in the provenance's precision, and needs nothing but torch. The provenance is in
    the extra file ``provenance.json``.
    """
    config = provenance.config
    program = InBfloat16(model).eval() if provenance.precision == "bf16" else model
    example = torch.zeros(2, config.in_channels, *config.image_size)
    buffer = io.BytesIO()
    with deprecation_accepted():
        traced = torch.jit.trace(program, example, check_trace=False)  # verify does the checking
        frozen = torch.jit.freeze(traced)
        extra = {PROVENANCE_FILE: json.dumps(provenance.to_metadata(), sort_keys=True)}
        torch.jit.save(frozen, buffer, _extra_files=extra)
    return _canonical(buffer)


def _canonical(archive: io.BytesIO) -> bytes:
    """Rewrite a TorchScript archive without what differs from one process to the next.

    torch numbers its class names by how many classes the process has traced before, and stores
    where on this machine the Python source stood. Neither says anything about the network.
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
