"""Write a plain model as an ExportedProgram of torch.export, the same bytes every time."""

import copy
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.export import Dim, ExportedProgram

from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.torch_archive import extra_files, rewritten
from levit_deploy.targets.torch_network import example, with_ends


def to_pt2(model: LeViT, provenance: Provenance) -> bytes:
    """Export a plain float32 model in either layout.

    The program maps float32 (batch, channels, height, width) to float32 logits (batch, classes) for
    any batch, or has another input or output, as the provenance's interface says. Feature maps are
    a tuple in the order of the stages. The program computes in the provenance's precision, and
    needs nothing but torch. The provenance is in the extra file ``provenance.json``. Raises
    UsageError if the pixels' mean and standard deviation are not known.
    """
    buffer = io.BytesIO()
    with torch_kept_quiet():
        network = copy.deepcopy(with_ends(model, provenance)).requires_grad_(False)
        program = exported(network, example(provenance))
        torch.export.save(program, buffer, extra_files=extra_files(provenance))
    return rewritten(buffer, lambda name, record: (name, record))


def exported(network: torch.nn.Module, images: torch.Tensor) -> ExportedProgram:
    """Export a module that takes any batch, without a trace of where its source stands."""
    batch = Dim("batch", min=1)  # or the range would begin at 2, the batch of the example
    program = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:  # of the rest, stack traces name files of this machine
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    return program


@contextmanager
def torch_kept_quiet() -> Iterator[None]:
    """Silence torch's warnings, which are about its own code and not about yours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
