"""Round a network to int8 by torchao's PT2E, as XNNPACK computes it, and make that file again.

The scales of the activations come from pictures, and go into the file's metadata. With them, the
rounded network can be made again from the checkpoint alone: the file is held to it byte by byte.
With 'int8-dynamic' the activations have no scales before they come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.errors import ArtifactError, VerificationError
from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.executorch_writer import (
    Writer,
    in_silence,
    lowered,
    metadata_of,
    to_executorch,
    traceable,
)
from levit_deploy.targets.target import Int8Standard

SCALES = "scales"  # a further key of the metadata
Scales = list[tuple[float, int]]  # and zero points, in the order of the graph


def rounded(model: LeViT, provenance: Provenance, batch_size: int, images: Images) -> Writer:
    """Round a plain float32 model, calibrated on images unless it is 'int8-dynamic'.

    Raises UsageError as ``to_executorch`` does.
    """
    graph = _calibrated(model, provenance, batch_size, images)
    scales = _scales(graph)
    write = _lowered(model, provenance, batch_size, scales)[1]
    return lambda metadata: write({**metadata, SCALES: json.dumps(scales)})


def int8_standard(
    model: LeViT, provenance: Provenance, batch_size: int, path: Path, data: bytes
) -> Int8Standard:
    """Make a rounded program again, with the scales in its metadata.

    Raises ArtifactError if these are damaged, and VerificationError if another file comes out.
    """
    metadata = metadata_of(path, data)
    scales = _claimed_scales(path, metadata)
    graph, write = _lowered(model, provenance, batch_size, scales)
    if write(metadata) != data:
        raise VerificationError(
            _refusal(path, metadata.get("written_with", ""), provenance.written_with)
        )

    def literal(images: Images) -> FloatArray:
        with torch.inference_mode():
            answers: FloatArray = graph(torch.from_numpy(images)).numpy()
        return answers

    unrounded = to_executorch(model, replace(provenance, precision="fp32"), batch_size)
    return Int8Standard(unrounded=unrounded, literal=literal)


def _refusal(path: Path, written_with: str, installed: str) -> str:
    if written_with != installed:
        return (
            f"{path} was written with {written_with or 'unknown libraries'}, and here are "
            f"{installed}, which write another file. Expected the same, byte by byte. Verify it "
            "with the libraries that wrote it, or export it again."
        )
    return (
        f"{path} is not the checkpoint's network, rounded with the scales in its metadata: that "
        "is another file. Do not ship it. Export it again."
    )


def _lowered(
    model: LeViT, provenance: Provenance, batch_size: int, scales: Scales
) -> tuple[fx.GraphModule, Writer]:
    """The rounded network, as torch computes it and lowered, the last one from memory.

    To lower it takes a minute, and an export does so to write the file and to prove it.
    """
    key = hashlib.sha256(repr((provenance.precision, provenance.interface, scales)).encode())
    key.update(repr((provenance.config, provenance.preprocessing, batch_size)).encode())
    for name, tensor in model.state_dict().items():
        key.update(name.encode() + tensor.numpy().tobytes())
    if key.digest() not in _LAST:
        graph = _with_scales(model, provenance, batch_size, scales)
        with in_silence():
            write = lowered(torch.export.export(graph, (graph.meta["example"],)))
        _LAST.clear()
        _LAST[key.digest()] = graph, write
    return _LAST[key.digest()]


_LAST: dict[bytes, tuple[fx.GraphModule, Writer]] = {}


def _calibrated(
    model: LeViT, provenance: Provenance, batch_size: int, images: Images
) -> fx.GraphModule:
    """The rounded network, with scales as the images ask for."""

    def observe(observed: Callable[[Tensor], object]) -> None:
        rows = np.arange(-(-len(images) // batch_size) * batch_size) % len(images)
        for start in range(0, len(rows), batch_size):
            observed(torch.from_numpy(images[rows[start : start + batch_size]]))

    dynamic = provenance.precision == "int8-dynamic"
    return _converted(model, provenance, batch_size, None if dynamic else observe)


def _with_scales(
    model: LeViT, provenance: Provenance, batch_size: int, scales: Scales
) -> fx.GraphModule:
    """The rounded network, with these scales."""
    graph = _converted(model, provenance, batch_size, None)
    nodes = list(_with_a_scale(graph))
    if len(nodes) != len(scales):
        raise VerificationError(
            f"The metadata have {len(scales)} scales, and the checkpoint's network, rounded, has "
            f"{len(nodes)}. The file is of another network, or another version wrote it. Export it "
            "again."
        )
    for node, (scale, zero_point) in zip(nodes, scales, strict=True):
        node.args = (node.args[0], scale, zero_point, *node.args[3:])
    graph.recompile()
    return graph


def _converted(
    model: LeViT,
    provenance: Provenance,
    batch_size: int,
    observe: Callable[[Callable[[Tensor], object]], None] | None,
) -> fx.GraphModule:
    """The rounded network: weights by their own ranges, channel by channel."""
    network, example = traceable(model, provenance, batch_size)
    with in_silence(), torch.no_grad():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        dynamic = provenance.precision == "int8-dynamic"
        how = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
        exported = torch.export.export(network, (example,)).module(check_guards=False)
        observed = prepare_pt2e(exported, XNNPACKQuantizer().set_global(how))
        if observe is None:
            observed(example)  # the weights are observed, too
        else:
            observe(observed)
        graph: fx.GraphModule = convert_pt2e(observed)
    graph.meta["example"] = example
    return graph


def _with_a_scale(graph: fx.GraphModule) -> Iterator[fx.Node]:
    """Every operator that rounds an activation, or takes it back, by a scale that is fixed."""
    operators = torch.ops.quantized_decomposed
    kinds = (
        operators.quantize_per_tensor.default,
        operators.dequantize_per_tensor.default,
    )
    return (node for node in graph.graph.nodes if node.target in kinds)


def _scales(graph: fx.GraphModule) -> Scales:
    numbers: list[Any] = [node.args[1:3] for node in _with_a_scale(graph)]
    return [(float(scale), int(zero_point)) for scale, zero_point in numbers]


def _claimed_scales(path: Path, metadata: Mapping[str, str]) -> Scales:
    try:
        scales = [(float(scale), int(zero)) for scale, zero in json.loads(metadata[SCALES])]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} has no scales of its activations in its metadata ({type(error).__name__}: "
            f"{error}). Expected an int8 program that levit-deploy wrote. Export it again."
        ) from error
    if not all(0 < scale < np.inf and -128 <= zero <= 127 for scale, zero in scales):
        raise ArtifactError(
            f"{path} has scales in its metadata that are not positive, or zero points that are no "
            "int8. Expected an int8 program that levit-deploy wrote. Export it again."
        )
    return scales
