"""Open an ONNX file, in onnxruntime or in OpenVINO."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from levit_deploy.choices import RUNTIMES, Runtime, known
from levit_deploy.errors import ArtifactError, BackendError, first_line, is_out_of_memory
from levit_deploy.extras import require_openvino
from levit_deploy.targets.onnx_ends import remarks, taken
from levit_deploy.targets.onnx_opsets import STANDARD_DOMAINS

if TYPE_CHECKING:
    import onnx

    from levit_deploy.arrays import FloatArray, Images
    from levit_deploy.runtime.artifact import Artifact, Loader

    Outputs = Callable[[Images], Sequence[FloatArray]]  # every output, by place


def load(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Open an ONNX file in the runtime that its metadata name, or else in onnxruntime.

    Raises ArtifactError if it is none, or another network's, and UsageError if that runtime is not
    installed. ``literal`` is onnxruntime's alone.
    """
    return _opened(path, data, threads, literal, None)


def load_in_onnxruntime(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Open it in onnxruntime, whatever its metadata name."""
    return _opened(path, data, threads, literal, "onnxruntime")


def load_in_openvino(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Open it in OpenVINO, whatever its metadata name."""
    return _opened(path, data, threads, literal, "openvino")


LOADERS: dict[Runtime, Loader] = {
    "onnxruntime": load_in_onnxruntime,
    "openvino": load_in_openvino,
}


def _opened(
    path: Path, data: bytes, threads: int | None, literal: bool, runtime: Runtime | None
) -> Artifact:
    from levit_deploy.provenance import is_ours
    from levit_deploy.runtime.artifact import Artifact, answers, claimed_interface, claimed_maps

    model = _without_numbers(_read_without_reaching_out(path, data))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if not is_ours(metadata):  # another tool's words may look like ours
        metadata = {}
    runtime = runtime or _own_runtime(path, metadata)
    if runtime == "openvino":
        require_openvino()
    try:
        outputs = _RUN[runtime](data, threads, literal)
    except Exception as error:  # the runtimes' exceptions share no base class
        if is_out_of_memory(error):
            raise
        raise ArtifactError(
            f"{path} cannot be loaded by {runtime}: {first_line(error)}. Expected an artifact "
            "that levit-deploy wrote."
        ) from error

    interface, maps = claimed_interface(path, metadata), claimed_maps(path, metadata)
    weights = {weight.name for weight in model.graph.initializer}  # inputs, too, in old files
    given = [value for value in model.graph.input if value.name not in weights]
    expected = {"input": [interface.input_name], "output": interface.output_names(len(maps))}
    present = {
        "input": [value.name for value in given],
        "output": [value.name for value in model.graph.output],
    }
    names = {kind: taken(path, kind, present[kind], expected[kind]) for kind in expected}
    types = {value.name: _type(value) for value in (*given, *model.graph.output)}
    wanted = "tensor(uint8)" if interface.input == "uint8" else "tensor(float)"
    if [types[name] for name in names["input"]] != [wanted] or any(
        types[name] != "tensor(float)" for name in names["output"]
    ):
        raise ArtifactError(
            f"{path} has the inputs and outputs {types}. Expected {interface.input} and float32."
        )
    batch, *image_shape = _shape(given[0]) or [None]
    sizes = [size for size in image_shape if size is not None]
    if len(image_shape) != 3 or len(sizes) != 3:
        raise ArtifactError(
            f"{path} takes {given[0].name} of shape {_shape(given[0])}. Expected the batch and "
            "three fixed sizes of an image, as a LeViT has one image size."
        )
    places = [present["output"].index(name) for name in names["output"]]
    computed = (name for node in model.graph.node for name in node.output if name)
    inside = [name for name in computed if name not in present["output"]]

    def run(images: Images) -> FloatArray:
        try:
            given = outputs(images)
        except Exception as error:
            raise BackendError(
                f"{runtime} failed to run {path} on a batch of shape {images.shape}: "
                f"{first_line(error)}."
            ) from error
        return answers(path, [given[place] for place in places], maps)

    return Artifact(
        path=path,
        format="onnx",
        runtime=runtime,
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
        batch_size=batch,
        image_shape=tuple(sizes),
        run=run,
        values=lambda images: _values(path, inside, images),
        remarks=() if is_ours(metadata) else remarks(model, names, expected),
    )


def _own_runtime(path: Path, metadata: dict[str, str]) -> Runtime:
    """The runtime that a file was proven in."""
    claimed = metadata.get("runtime", "onnxruntime")  # the first artifacts had no other
    if (runtime := known(claimed, RUNTIMES)) is not None:
        return runtime
    raise ArtifactError(
        f"{path} was written for the runtime {claimed!r}. Expected one of {', '.join(RUNTIMES)}. "
        "Upgrade levit-deploy, or name one of these with --runtime."
    )


def _onnxruntime(data: bytes, threads: int | None, literal: bool) -> Outputs:
    from levit_deploy.runtime.sessions import onnx_session

    session = onnx_session(data, threads, literal=literal)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def _openvino(data: bytes, threads: int | None, _literal: bool) -> Outputs:
    from levit_deploy.runtime.compiled import openvino_runner

    return openvino_runner(data, threads)


_RUN: dict[Runtime, Callable[[bytes, int | None, bool], Outputs]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _type(value: onnx.ValueInfoProto) -> str:
    """The type of an input or output, in the words of onnxruntime."""
    import onnx

    return f"tensor({onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()})"


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    """The sizes of an input, None if one is open."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


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


def _without_numbers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the names of its weights only, as the runtime reads the numbers itself."""
    import onnx

    light = onnx.ModelProto(metadata_props=model.metadata_props)
    for field in ("input", "output", "node"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    light.graph.initializer.extend(onnx.TensorProto(name=w.name) for w in model.graph.initializer)
    return light


def _values(path: Path, inside: Sequence[str], images: Images) -> Iterator[FloatArray]:
    """Yield the output of every node, by making those inside outputs of the graph as well.

    A message that follows another in protobuf adds to its lists, so the weights need no rewriting.
    """
    import numpy as np
    import onnx

    from levit_deploy.memory import give_back
    from levit_deploy.runtime.sessions import onnx_session

    graph = onnx.GraphProto(output=[onnx.ValueInfoProto(name=name) for name in inside])
    more = onnx.ModelProto(graph=graph).SerializeToString()
    with _longer(path, more) as model:
        session = onnx_session(model, literal=True, arena=False)  # which fuses across no outputs
    del model
    give_back()  # what onnxruntime read the weights into
    values = session.run(None, {session.get_inputs()[0].name: images})
    del session
    values.reverse()
    while values:  # each is let go of as soon as it is taken
        value = values.pop()
        if np.issubdtype(value.dtype, np.floating):
            yield value.astype(np.float32, copy=False)


@contextmanager
def _longer(path: Path, more: bytes) -> Iterator[str | bytes]:
    """Yield a file with more behind it, by name: bytes would stay beside onnxruntime's own copy."""
    from levit_deploy.regular_files import open_regular, read_regular

    with ExitStack() as closing:
        try:
            longer = tempfile.TemporaryFile()  # noqa: SIM115
            closing.callback(_closed, longer)
            with open_regular(path) as file:
                shutil.copyfileobj(file, longer)
            longer.write(more)
            longer.seek(0)
            name = f"/dev/fd/{longer.fileno()}"
            Path(name).stat()
            model: str | bytes = name
        except OSError:  # there are no such names here, or the disk is full
            model = read_regular(path) + more
        yield model


def _closed(file: IO[bytes]) -> None:
    with suppress(OSError):  # of a full disk, once more
        file.close()
