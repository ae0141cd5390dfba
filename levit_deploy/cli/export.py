"""``levit-deploy export``: write an artifact for a runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from levit_deploy.choices import Cpu, Input, LayoutChoice, Output, Precision
from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.inputs import beside, check_paths, json_path, parsed_batch_size, read
from levit_deploy.cli.options import (
    OPSETS,
    SUFFIXES,
    ActivationOption,
    CalibratingImagesOption,
    CheckpointArgument,
    ForceOption,
    Format,
    HeadOption,
    ImageSizeOption,
    JsonOption,
    LabelsOption,
    MaxDropOption,
    PreprocessingOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
)
from levit_deploy.cli.outputs import evidence_of_failure, report_published
from levit_deploy.cli.status import status
from levit_deploy.errors import UsageError


def _completed_opset(incomplete: str) -> list[str]:
    return [str(opset) for opset in OPSETS if str(opset).startswith(incomplete)]


@reports_errors
def export(
    checkpoint: CheckpointArgument,
    format: Annotated[Format, typer.Option(help="What to write.")] = "onnx",
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Where to write; beside the checkpoint if not given. A folder, as in out/, gets "
            "what Optimum loads, for a CHECKPOINT of transformers.",
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write, in place of -o, a model into this model repository of NVIDIA Triton, "
            "named like the checkpoint.",
        ),
    ] = None,
    layout: Annotated[
        LayoutChoice,
        typer.Option(help="How the trunk lays out its data; auto is the fastest measured."),
    ] = "auto",
    head: HeadOption = "mean",
    input_type: Annotated[
        Input,
        typer.Option(
            help="float32 images, normalised already, or uint8 (batch, height, width, channels), "
            "as a camera gives them, with the normalisation built in.",
        ),
    ] = "float32",
    output_type: Annotated[
        Output, typer.Option(help="Logits, or their softmax, built in.")
    ] = "logits",
    precision: Annotated[
        Precision,
        typer.Option(
            help="What it computes in, between float32 images and float32 logits: fp16 for ONNX, "
            "bf16 for TorchScript; int8, for ONNX, needs --images to calibrate on and to judge by."
        ),
    ] = "fp32",
    max_drop: MaxDropOption = None,
    cpu: Annotated[
        Cpu,
        typer.Option(
            help="What int8 is to run on: any keeps weights within 64, or sums would saturate "
            "where there is no VNNI."
        ),
    ] = "any",
    even_if_slower: Annotated[
        bool, typer.Option("--even-if-slower", help="Publish int8 that is no faster than float.")
    ] = False,
    opset: Annotated[
        int | None,
        typer.Option(
            autocompletion=_completed_opset,
            help="ONNX operator set, 17 (the default) to 23; from 23 the tokens layout, which auto "
            "then takes, has the Attention operator.",
        ),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(metavar="dynamic|N", help="Leave the batch open, or fix it (ONNX).")
    ] = "dynamic",
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    preprocessing: PreprocessingOption = None,
    labels: LabelsOption = None,
    images: CalibratingImagesOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Export to ONNX or TorchScript; the file gets its name only once it is proven.

    Example: levit-deploy export ckpt.pth --format onnx -o ckpt.onnx
    """
    from levit_deploy.publish.optimum import hub_folder, refuse_bad_hub_folder
    from levit_deploy.publish.triton import TritonModel, refuse_bad_model

    if triton is not None and output is not None:
        raise UsageError("--triton and -o were both given. Leave one of them out.")
    output = output or str(beside(checkpoint, SUFFIXES[format]))
    model = TritonModel(triton, beside(checkpoint, "").name) if triton is not None else None
    folder = hub_folder(output) if model is None else model.folder
    file = Path(output) if folder is None else None
    check_paths(
        checkpoint, labels=labels, images=images, output=file, json_file=json_file, force=force
    )
    if folder is not None:
        if model is not None:
            refuse_bad_model(model, force)
        else:
            refuse_bad_hub_folder(folder, force)
        report = json_path(json_file)
        if report is not None and folder.resolve() in report.resolve().parents:
            raise UsageError(
                f"--json {json_file} is in the folder {folder}, which is to hold what is loaded "
                "from there and nothing else. Name a file in another folder with --json."
            )
    batch = parsed_batch_size(batch_size)
    if precision != "int8" and (max_drop is not None or cpu != "any" or even_if_slower):
        raise UsageError(
            "--max-drop, --cpu and --even-if-slower are for int8. Leave them out, or give "
            "--precision int8."
        )
    loaded = read(checkpoint, activation, image_size, weights, preprocessing, labels, quiet=quiet)
    from levit_deploy import pipeline
    from levit_deploy.quantization.quantize import Int8Options
    from levit_deploy.targets.target import ExportOptions

    choices: dict[str, Any] = {
        "head": head,
        "layout": layout,
        "options": ExportOptions(opset, batch, input_type, output_type),
        "force": force,
    }
    with (
        evidence_of_failure(
            loaded, model.file(format) if model else Path(output), json_file, quiet, force
        ),
        status(f"writing and proving {folder or output}", quiet=quiet) as tell,
    ):
        if precision == "int8" and format == "onnx" and images is not None:
            int8 = Int8Options(images, max_drop, cpu, even_if_slower)
            published = pipeline.quantize(loaded, model or output, int8, **choices, progress=tell)
        else:
            published = pipeline.export(
                loaded, format, model or output, precision=precision, images=images, **choices
            )
    report_published(published, loaded, json_file, quiet, force)
