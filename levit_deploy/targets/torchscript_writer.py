"""Write a plain model as TorchScript: traced, frozen, the same bytes every time."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.torch_archive import extra_files, rewritten
from levit_deploy.targets.torch_network import example, with_ends


def to_torchscript(model: LeViT, provenance: Provenance) -> bytes:
    """Trace and freeze a plain float32 model in either layout.

    The program maps float32 (batch, channels, height, width) to float32 logits (batch, classes) for
    any batch, or has another input or output, as the provenance's interface says. Feature maps are
    a tuple in the order of the stages. The program computes in the provenance's precision, and
    needs nothing but torch. The provenance is in the extra file ``provenance.json``. Raises
    UsageError if the pixels' mean and standard deviation are not known.
    """
    buffer = io.BytesIO()
    with deprecation_accepted():
        network, images = with_ends(model, provenance), example(provenance)
        traced = torch.jit.trace(network, images, check_trace=False)  # verify does the checking
        torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files=extra_files(provenance))
    return rewritten(buffer, _canonical)


_MANGLING = re.compile(rb"(?:\.|/)?___torch_mangle_\d+")


def _canonical(name: str, record: bytes) -> tuple[str, bytes] | None:
    """A record without the parts that differ between processes.

    torch numbers its class names by how many classes the process has traced before, and stores
    the path of the Python source on this machine. Neither says anything about the network.
    """
    if name.endswith(".debug_pkl"):
        return None
    if name.startswith("code/") or name.endswith(".pkl"):
        record = _MANGLING.sub(b"", record)
    return _MANGLING.sub(b"", name.encode()).decode(), record


@contextmanager
def deprecation_accepted() -> Iterator[None]:
    """Silence torch's advice to leave TorchScript: the user asked for it by name."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # before torch 2.14, and from it on
            warnings.filterwarnings("ignore", r"`torch\.jit\.", category)
        yield
