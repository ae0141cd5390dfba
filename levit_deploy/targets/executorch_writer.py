"""Write a plain model as an ExecuTorch program that XNNPACK runs: the same bytes every time."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from levit_deploy.errors import ArtifactError
from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.executorch_network import with_ends

PROVENANCE = "provenance"  # a method without inputs, which returns the metadata as JSON
Writer = Callable[[Mapping[str, str]], bytes]  # of the metadata


def to_executorch(model: LeViT, provenance: Provenance, batch_size: int) -> bytes:
    """Lower a plain float32 model in the tokens layout.

    The program's method ``forward`` maps float32 (batch, channels, height, width) to float32 logits
    (batch, classes), or has another input or output, as the provenance's interface says. Feature
    maps are several outputs in the order of the stages. Raises UsageError if the pixels' mean and
    standard deviation are not known.
    """
    network, images = traceable(model, provenance, batch_size)
    with in_silence():
        return lowered(torch.export.export(network, (images,)))(provenance.to_metadata())


def traceable(model: LeViT, provenance: Provenance, batch_size: int) -> tuple[nn.Module, Tensor]:
    """Return the network as it is lowered, and a batch of its inputs."""
    interface = provenance.interface
    shape = (batch_size, *interface.image_shape(provenance.config))
    images = torch.zeros(shape, dtype=getattr(torch, interface.input))
    return with_ends(model, provenance, batch_size), images


def lowered(exported: torch.export.ExportedProgram) -> Writer:
    """Lower a network once, and return a function that writes it with any metadata."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import (
        ExecutorchBackendConfig,
        ExecutorchProgramManager,
        to_edge_transform_and_lower,
    )

    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    made = edge.to_executorch()

    def write(metadata: Mapping[str, str]) -> bytes:
        with in_silence():
            program = ExecutorchProgramManager(
                made._execution_programs,
                {PROVENANCE: json.dumps(metadata, sort_keys=True)},
                ExecutorchBackendConfig(),
                made._named_data,
            )
        return bytes(program.buffer)

    return write


def facts(data: bytes) -> dict[str, int]:
    """Count the calls of XNNPACK in a program, and each operator that it leaves to others."""
    forward = _plan(data, "forward")
    with in_silence():
        from executorch.exir.schema import DelegateCall, KernelCall
    calls: list[Any] = [step.instr_args for chain in forward.chains for step in chain.instructions]
    outside = Counter(
        forward.operators[call.op_index].name.removeprefix("aten::")
        for call in calls
        if isinstance(call, KernelCall)
    )
    delegated = sum(isinstance(call, DelegateCall) for call in calls)
    return {"calls of XNNPACK": delegated} | {
        f"{name} outside": outside[name] for name in sorted(outside)
    }


def metadata_of(path: Path, data: bytes) -> dict[str, str]:
    """Read the metadata of a program without running it; raise ArtifactError if it has none."""
    try:
        (value,) = _plan(data, PROVENANCE).values
        metadata: dict[str, str] = json.loads(value.val.string_val)
    except (AttributeError, ValueError) as error:
        raise ArtifactError(
            f"{path} has no metadata ({type(error).__name__}: {error}). Expected a program that "
            "levit-deploy wrote. Export it again."
        ) from error
    return metadata


def _plan(data: bytes, name: str) -> Any:
    """The method of a program with this name; ValueError if it has none."""
    with in_silence():
        from executorch.exir._serialize._program import deserialize_pte_binary

        plans = deserialize_pte_binary(data).program.execution_plan
    (plan,) = (plan for plan in plans if plan.name == name)
    return plan


@contextlib.contextmanager
def in_silence() -> Iterator[None]:
    """Hide the warnings and logs of torch.export, torchao and ExecuTorch about their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
