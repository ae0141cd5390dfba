"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from levit_deploy.choices import Activation, Head, Weights

CheckpointArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .pth, .bin or .safetensors file, or a folder saved by timm or transformers.",
    ),
]
ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="An ONNX, TorchScript or fused file.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Where to write; the default is beside the checkpoint."),
]
HeadOption = Annotated[Head, typer.Option(help="Average the two heads, or keep one.")]
ActivationOption = Annotated[
    Activation | None, typer.Option(help="The activation, if the file does not name it.")
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="The image size, if the file does not give it. A size other than the trained one "
        "interpolates the attention biases.",
    ),
]
WeightsOption = Annotated[
    Weights | None, typer.Option(help="Which weights of a training run to load.")
]


def _images(*more: str) -> Any:
    """--images, with its other uses in a command."""
    proof = "Prove it on up to 64 pictures in this folder, too, of any size."
    return typer.Option("--images", metavar="DIR", help=" ".join((proof, *more)))


ImagesOption = Annotated[Path | None, _images()]
CalibratingImagesOption = Annotated[
    Path | None,
    _images(
        "int8 is calibrated on a quarter of them (at most 64) and judged on the rest (at most "
        "1,000)."
    ),
]
JudgingImagesOption = Annotated[
    Path | None, _images("int8 needs them, and is judged on at most 1,000.")
]
PreprocessingOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Preprocessing, if no config has it or the config is wrong. Give any parts of the "
        'line that inspect prints, as in "crop 0.875, bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5".',
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Class names for the artifact: one a line, or JSON. The default is the config's.",
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help="Points that int8 may lose on --images: of top-1 if there is a folder for each class "
        "(default 0.3), else of agreement with float32 (default 0.5).",
    ),
]
PicturesAtOnceOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        max=1024,
        help="Pictures to run at once; the default is 8, or the artifact's fixed batch size.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Threads of the runtime; the default is its own choice."),
]
JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the report as JSON; - for standard output."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print each step with its time, and tracebacks.")
]
