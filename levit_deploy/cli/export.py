"""``levit-deploy export``: write an artifact for a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from levit_deploy.choices import ROUNDED, Cpu, Input, LayoutChoice, Output, Precision, Runtime
from levit_deploy.cli import options
from levit_deploy.cli.paths import Inputs
from levit_deploy.cli.reading import ReadingWithUse
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.sizes import parsed_batch_size, parsed_opset
from levit_deploy.cli.status import status
from levit_deploy.errors import UsageError
from levit_deploy.publish.naming import beside
from levit_deploy.targets.formats import Format, target_named
from levit_deploy.targets.onnx_opsets import OPSETS

if TYPE_CHECKING:
    from levit_deploy.publish.destination import Destination
    from levit_deploy.targets.target import Target


def _completed_opset(incomplete: str) -> list[str]:
    return [name for name in ("auto", *map(str, OPSETS)) if name.startswith(incomplete)]


def export(
    checkpoint: options.Checkpoint,
    *,
    format: Annotated[Format, typer.Option(help="The format to write.")] = "onnx",
    runtime: Annotated[
        Runtime,
        typer.Option(
            help="The runtime that an ONNX file is for, and is proven in. openvino gets the tokens "
            "layout, and a batch of 1."
        ),
    ] = "onnxruntime",
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Where to write; the default is beside the checkpoint. A folder, as in out/, gets "
            "a model for Optimum, if CHECKPOINT is a folder of transformers.",
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a model, named like the checkpoint, into this model repository of NVIDIA "
            "Triton, instead of -o.",
        ),
    ] = None,
    layout: Annotated[
        LayoutChoice,
        typer.Option(
            help="How the trunk lays out its data. auto is spatial for onnxruntime, and tokens "
            "for other runtimes, for int8 and from opset 23. w8a16 gets spatial."
        ),
    ] = "auto",
    head: options.Head = "mean",
    input_type: Annotated[
        Input,
        typer.Option(
            help="float32 takes normalised images. uint8 takes the bytes of a camera, (batch, "
            "height, width, channels), with the normalisation built in."
        ),
    ] = "float32",
    output_type: Annotated[
        Output,
        typer.Option(
            help="Logits, or probabilities with the softmax built in. features is the pooled "
            "vector before the heads, feature-maps a map for each stage."
        ),
    ] = "logits",
    precision: Annotated[
        Precision,
        typer.Option(
            help="Precision of the computation; images and logits stay float32. fp16 is for onnx, "
            "bf16 for pt2 and torchscript. The rest need --images. int8 is for onnx and "
            "executorch. int8-dynamic rounds activations as they come, for executorch and litert. "
            "w8a16, for onnx, has 8 bits for weights and 16 for activations, for NPUs."
        ),
    ] = "fp32",
    max_drop: options.MaxDrop = None,
    confident: options.Confident = False,
    cpu: Annotated[
        Cpu,
        typer.Option(
            help="The processors that int8 is for. any limits weights, so that no sum overflows "
            "without VNNI."
        ),
    ] = "any",
    even_if_slower: Annotated[
        bool,
        typer.Option("--even-if-slower", help="Publish int8 even if it is no faster than float."),
    ] = False,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Make native code of a PT2 file, for this kind of processor. It needs g++, and "
            "takes a minute or two.",
        ),
    ] = False,
    opset: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            autocompletion=_completed_opset,
            help="ONNX operator set, 11 to 23. auto is 17, for int8 the faster one, and for w8a16 "
            "21. From 23, auto takes the tokens layout, with the Attention operator.",
        ),
    ] = "auto",
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="auto|dynamic|N",
            help="Leave the batch size open, or fix it (onnx, executorch, litert). auto fixes it "
            "to 1 for phones, for OpenVINO and for w8a16.",
        ),
    ] = "auto",
    input_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The name of the input (onnx, litert), instead of pixel_values."
        ),
    ] = None,
    output_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The name of the output (onnx, litert), instead of logits."
        ),
    ] = None,
    reading: ReadingWithUse,
    images: options.CalibratingImages = None,
    reporting: Reporting,
) -> None:
    """Write a file for a runtime; it gets its name only once it is proven.

    Example: levit-deploy export ckpt.pth --format onnx -o ckpt.onnx
    """
    target = target_named(format, runtime, compile=compile)
    destination = _destination(checkpoint, target, output, triton)
    inputs = Inputs(
        checkpoint=checkpoint, labels=reading.labels, expect=reading.expect, images=images
    )
    shown = _checked(destination, format, inputs, reporting)
    batch = parsed_batch_size(batch_size)
    for_int8 = max_drop is not None or confident or cpu != "any" or even_if_slower
    if precision not in ROUNDED and for_int8:
        raise UsageError(
            "--max-drop, --confident, --cpu and --even-if-slower are for int8. Leave them out, or "
            "give --precision int8 or int8-dynamic."
        )
    loaded = reading.read(checkpoint, quiet=reporting.quiet)
    from levit_deploy import pipeline
    from levit_deploy.targets.target import ExportOptions

    choices = ExportOptions(
        parsed_opset(opset), batch, input_type, output_type, input_name, output_name, compile
    )
    with (
        reporting.evidence_of_failure(loaded, shown),
        status(f"writing and proving {shown}", quiet=reporting.quiet) as tell,
    ):
        if precision in ROUNDED and images is not None:
            from levit_deploy.quantization.quantize import Int8Options  # half a second

            published = pipeline.quantize(
                loaded,
                destination,
                Int8Options(images, max_drop, cpu, even_if_slower, confident),
                format=format,
                precision=precision,
                head=head,
                layout=layout,
                options=choices,
                runtime=runtime,
                force=reporting.force,
                progress=tell,
            )
        else:
            published = pipeline.export(
                loaded,
                format,
                destination,
                head=head,
                layout=layout,
                precision=precision,
                options=choices,
                runtime=runtime,
                force=reporting.force,
                images=images,
            )
    reporting.published(published, loaded)
    reporting.note(target.note)


def _destination(
    checkpoint: Path, target: Target, output: str | None, triton: Path | None
) -> Destination:
    """Where the artifact goes: to -o, into --triton, or beside the checkpoint."""
    from levit_deploy.publish.triton import TritonModel

    if output == "":
        raise UsageError("-o names nothing. Name a file, or leave the option out.")
    if triton is None:
        return output or str(beside(checkpoint, target.suffix))
    if output is not None:
        raise UsageError("--triton and -o were both given. Leave one of them out.")
    return TritonModel(triton, beside(checkpoint, "").name)


def _checked(
    destination: Destination, format: Format, inputs: Inputs, reporting: Reporting
) -> Path:
    """The path to show, once it is known that it can be written."""
    from levit_deploy.publish.optimum import hub_folder, refuse_bad_hub_folder
    from levit_deploy.publish.triton import TritonModel, refuse_bad_model

    if isinstance(destination, TritonModel):
        reporting.check_paths(inputs)
        refuse_bad_model(destination, reporting.force)
        folder, shown = destination.folder, destination.file(format)
    elif (hub := hub_folder(destination)) is not None:
        reporting.check_paths(inputs)
        refuse_bad_hub_folder(hub, reporting.force)
        folder = shown = hub
    else:
        reporting.check_paths(inputs, {"-o": Path(destination)})
        return Path(destination)
    file = reporting.json_file
    if file is not None and folder.resolve() in file.resolve().parents:
        raise UsageError(
            f"--json {file} is in the folder {folder}. That folder is for the model and nothing "
            "else. Name a file in another folder with --json."
        )
    return shown
