"""Open a LiteRT file with the runtime alone, the package ai-edge-litert."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levit_deploy.errors import ArtifactError, BackendError, first_line, is_out_of_memory
from levit_deploy.extras import require_extra

if TYPE_CHECKING:
    from levit_deploy.arrays import FloatArray, Images
    from levit_deploy.runtime.artifact import Artifact


def load(path: Path, data: bytes, threads: int | None, literal: bool) -> Artifact:
    """Open a LiteRT file of ours; raise ArtifactError if it is none.

    The file takes and gives maps with their channels last. ``run`` takes float32 images and gives
    feature maps with their channels first, as every artifact does. ``literal`` has the reference
    kernels compute, and no delegate.
    """
    require_extra("litert", ("ai_edge_litert",), "The format litert")
    from levit_deploy.provenance import Provenance
    from levit_deploy.runtime.artifact import Artifact, answers, claimed_interface, claimed_maps
    from levit_deploy.targets.litert_file import metadata_of, read_model

    interpreter = _opened(path, data, threads, "BUILTIN_REF" if literal else "AUTO")
    metadata = metadata_of(path, read_model(path, data))
    interface, maps = claimed_interface(path, metadata), claimed_maps(path, metadata)
    try:
        config = Provenance.from_metadata(metadata).config
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is a LiteRT file with damaged provenance ({type(error).__name__}: {error}). "
            "Expected one that levit-deploy wrote. Export it again."
        ) from error
    given, *others = interpreter.get_input_details()
    outputs = interpreter.get_output_details()
    batch, *sides = (int(side) for side in given["shape"])
    height_first = [*config.image_size, config.in_channels]
    wanted = [tuple(shape) for shape in interface.outputs(config).values()]
    if maps:
        wanted = [(*shape[1:], shape[0]) for shape in wanted]
    shapes = [tuple(int(side) for side in output["shape"]) for output in outputs]
    dtypes = [given["dtype"].__name__, *(output["dtype"].__name__ for output in outputs)]
    if (
        others
        or sides != height_first
        or shapes != [(batch, *shape) for shape in wanted]
        or dtypes != [interface.input, *["float32"] * len(outputs)]
    ):
        raise ArtifactError(
            f"{path} takes {sides} and gives {shapes}, in {', '.join(dtypes)}. Its metadata say "
            f"{height_first} in {interface.input}, and {wanted} behind the batch. Export it again."
        )

    def fill(opened: Any, images: Images) -> None:
        """Run the images, with their channels last."""
        expected = (batch, *interface.image_shape(config))
        if images.shape != expected or images.dtype != interface.input:
            raise BackendError(
                f"{path} was given a batch of shape {images.shape} in {images.dtype}. Expected "
                f"{expected} in {interface.input}."
            )
        if interface.input == "float32":
            images = images.transpose(0, 2, 3, 1)
        try:
            opened.set_tensor(given["index"], images)
            opened.invoke()
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"LiteRT failed to run {path} on a batch of shape {images.shape}: "
                f"{first_line(error)}."
            ) from error

    def run(images: Images) -> FloatArray:
        fill(interpreter, images)
        values = [interpreter.get_tensor(output["index"]) for output in outputs]
        if maps:
            values = [value.transpose(0, 3, 1, 2) for value in values]
        return answers(path, values, maps)

    def floats(images: Images) -> Iterator[FloatArray]:
        opened = _opened(path, data, threads, "BUILTIN_WITHOUT_DEFAULT_DELEGATES", keep=True)
        fill(opened, images)
        for operator in read_model(path, data).subgraphs[0].operators:
            for place in operator.outputs:
                value: FloatArray = opened.get_tensor(place)
                if value.dtype == "float32":
                    yield value

    return Artifact(
        path=path,
        format="litert",
        runtime="LiteRT",
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
        batch_size=batch,
        image_shape=interface.image_shape(config),
        run=run,
        values=floats,
    )


def _opened(
    path: Path, data: bytes, threads: int | None, kernels: str, *, keep: bool = False
) -> Any:
    """Return an interpreter that is ready to run; ``keep`` has it keep every value."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            model_content=data,
            num_threads=threads,
            experimental_op_resolver_type=OpResolverType[kernels],
            experimental_preserve_all_tensors=keep,
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ArtifactError(
            f"{path} cannot be loaded by LiteRT: {first_line(error)}. Expected an artifact that "
            "levit-deploy wrote."
        ) from error
    return interpreter
