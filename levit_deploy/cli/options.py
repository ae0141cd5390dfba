"""The arguments and options of the commands, which several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from levit_deploy.choices import Activation, Head, Weights

Format = Literal["onnx", "torchscript"]

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript.pt"}
OPSETS = range(17, 24)

CheckpointArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .pth, .bin or .safetensors file, or a folder as timm or transformers save it.",
    ),
]
ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="An .onnx, TorchScript or fused file.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Where to write; beside the checkpoint if not given."),
]
HeadOption = Annotated[Head, typer.Option(help="Average the two heads, or keep one.")]
ActivationOption = Annotated[
    Activation | None, typer.Option(help="The activation, where the file does not tell.")
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="The image size, where the file does not tell; another one than it was trained at "
        "interpolates the attention biases.",
    ),
]
WeightsOption = Annotated[
    Weights | None, typer.Option(help="Which weights of a training run to take.")
]


def _images(*more: str) -> Any:
    """--images, and what a command takes it for besides."""
    proof = "Prove it on the pictures in this folder, too: at most 64, of any size."
    return typer.Option("--images", metavar="DIR", help=" ".join((proof, *more)))


ImagesOption = Annotated[Path | None, _images()]
CalibratingImagesOption = Annotated[
    Path | None,
    _images(
        "int8 is calibrated on a quarter of them, at most 64, and judged by the others, at most "
        "1,000."
    ),
]
JudgingImagesOption = Annotated[
    Path | None, _images("int8 needs them, and is judged by at most 1,000.")
]
PreprocessingOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="How pictures become inputs, where no config says it or it is wrong, in the words of "
        'inspect: any parts of "crop 0.875, bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5".',
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The names of the classes, which an artifact carries along: one a line, or JSON. The "
        "config's, where it has them, if not given.",
    ),
]
MaxDropOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help="What int8 may cost on --images: points of top-1 where there is a folder for each "
        "class (0.3 if not given), or of agreement with float32 (0.5).",
    ),
]
PicturesAtOnceOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        max=1024,
        help="Pictures to run at once; 8 if not given, or as many as the artifact is fixed to.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Threads of the runtime; as many as it likes if not given."),
]
JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the report as JSON; - for standard output."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Print steps and tracebacks.")]
