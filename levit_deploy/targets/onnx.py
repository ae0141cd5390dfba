"""ONNX, run by onnxruntime: the target that most runtimes read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.choices import Layout, Precision
from levit_deploy.errors import (
    ArtifactError,
    BackendError,
    UsageError,
    first_line,
    is_out_of_memory,
)
from levit_deploy.targets.onnx_ends import remarks, renamed, taken
from levit_deploy.targets.onnx_opsets import (
    ATTENTION_OPSET,
    DEFAULT_OPSET,
    OPSETS,
    STANDARD_DOMAINS,
)
from levit_deploy.targets.target import ExportOptions, Form, Target, TritonBackend

if TYPE_CHECKING:
    import onnx

    from levit_deploy.arrays import FloatArray, Images
    from levit_deploy.model import LeViT
    from levit_deploy.provenance import Provenance
    from levit_deploy.runtime.artifact import Artifact


def _auto_layout(precision: Precision, options: ExportOptions) -> Layout:
    # Measured (docs/performance.md): at batch 1, onnxruntime runs float32 4 to 11 % faster in the
    # spatial layout, and int8 faster in tokens. The Attention operator takes tokens.
    if precision == "int8" or _opset(options) >= ATTENTION_OPSET:
        return "tokens"
    return "spatial"


def _opset(options: ExportOptions) -> int:
    return DEFAULT_OPSET if options.opset is None else options.opset


def _serialize(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    from levit_deploy.targets.onnx_writer import to_onnx

    opset = _opset(options)
    if opset not in OPSETS:
        raise UsageError(
            f"--opset {opset} is not supported. Choose from {OPSETS[0]} to {OPSETS[-1]}."
        )
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size} is not a positive number of images.")
    proto = to_onnx(model, provenance, opset=opset, batch_size=options.batch_size)
    proto = renamed(proto, *options.names)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _check_file(path: Path) -> dict[str, int]:
    from levit_deploy.targets.onnx_contract import check_contract

    return check_contract(path)


def load(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Open an ONNX file in onnxruntime; raise ArtifactError if it is none, or another network's."""
    from levit_deploy.provenance import is_ours
    from levit_deploy.regular_files import read_regular
    from levit_deploy.runtime.artifact import Artifact, answers, claimed_interface, claimed_maps
    from levit_deploy.runtime.sessions import onnx_session

    model = _read_without_reaching_out(path, data)
    try:
        session = onnx_session(data, threads, literal=literal)
    except Exception as error:  # onnxruntime's exceptions share no base class
        if is_out_of_memory(error):
            raise
        raise ArtifactError(
            f"{path} cannot be loaded by onnxruntime: {first_line(error)}. Expected an artifact "
            "that levit-deploy wrote."
        ) from error

    metadata = session.get_modelmeta().custom_metadata_map
    if not is_ours(metadata):  # another tool's words may look like ours
        metadata = {}
    interface, maps = claimed_interface(path, metadata), claimed_maps(path, metadata)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    expected = {"input": [interface.input_name], "output": interface.output_names(len(maps))}
    present = {"input": [x.name for x in inputs], "output": [y.name for y in outputs]}
    names = {kind: taken(path, kind, present[kind], expected[kind]) for kind in expected}
    types = {value.name: value.type for value in (*inputs, *outputs)}
    wanted = "tensor(uint8)" if interface.input == "uint8" else "tensor(float)"
    if [types[name] for name in names["input"]] != [wanted] or any(
        types[name] != "tensor(float)" for name in names["output"]
    ):
        raise ArtifactError(
            f"{path} has the inputs and outputs {types}. Expected {interface.input} and float32."
        )
    image_shape = inputs[0].shape[1:]
    if len(image_shape) != 3 or not all(isinstance(size, int) for size in image_shape):
        raise ArtifactError(
            f"{path} takes {inputs[0].name} of shape {inputs[0].shape}. Expected the batch and "
            "three fixed sizes of an image, as a LeViT has one image size."
        )

    def run(images: Images) -> FloatArray:
        try:
            outputs = session.run(names["output"], {inputs[0].name: images})
        except Exception as error:
            raise BackendError(
                f"onnxruntime failed to run {path} on a batch of shape {images.shape}: "
                f"{first_line(error)}."
            ) from error
        return answers(path, outputs, maps)

    return Artifact(
        path=path,
        format="onnx",
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
        batch_size=batch if isinstance(batch := inputs[0].shape[0], int) else None,
        image_shape=tuple(image_shape),
        run=run,
        values=lambda images: onnx_values(read_regular(path), images),
        remarks=() if is_ours(metadata) else remarks(model, names, expected),
    )


def _read_without_reaching_out(path: Path, data: bytes) -> onnx.ModelProto:
    """Read a model; ArtifactError if it needs other files, or operators of other libraries."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own
        raise ArtifactError(
            f"{path} is no ONNX file: {first_line(error)}. Expected an artifact that levit-deploy "
            "wrote."
        ) from error
    graphs, needed = [model.graph], set()
    while graphs:
        graph = graphs.pop()
        tensors = [*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)]
        for node in graph.node:
            if node.domain not in STANDARD_DOMAINS:
                needed.add(f"the operator {node.domain}.{node.op_type}")
            for attribute in node.attribute:
                graphs += [attribute.g, *attribute.graphs]
                tensors += [attribute.t, *attribute.tensors]
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
            needed.add("weights in another file")
    if model.functions:
        needed.add("functions of its own")
    if needed:
        raise ArtifactError(
            f"{path} needs {', '.join(sorted(needed))}. Expected standard operators and one file, "
            "as levit-deploy writes it. Export it again."
        )
    return model


def onnx_values(data: bytes, images: Images) -> Iterator[FloatArray]:
    """Yield the output of every node, by making each an output of the graph."""
    import numpy as np
    import onnx

    from levit_deploy.runtime.sessions import onnx_session

    model = onnx.load_model_from_string(data)
    given = {output.name for output in model.graph.output}
    computed = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in computed if n not in given)
    session = onnx_session(model.SerializeToString())
    for value in session.run(None, {session.get_inputs()[0].name: images}):
        if np.issubdtype(value.dtype, np.floating):
            yield value.astype(np.float32, copy=False)


ONNX = Target(
    name="onnx",
    suffix=".onnx",
    runtime="onnxruntime",
    precisions=("fp32", "fp16", "int8"),
    forms=(
        Form("tokens", "tokens"),
        Form("tokens, opset 23", "tokens", options=ExportOptions(opset=ATTENTION_OPSET)),
        Form("spatial", "spatial"),
        Form("fp16", "spatial", "fp16"),
    ),
    auto_layout=_auto_layout,
    serialize=_serialize,
    check_file=_check_file,
    recognises=lambda start: start[:1] == b"\x08",  # the field that protobuf writes first
    load=load,
    runtime_modules=("onnx", "onnxruntime"),
    triton=TritonBackend("onnxruntime_onnx", "model.onnx"),
)
