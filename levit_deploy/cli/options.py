"""Arguments and options that several commands share, one by one.

Those of every checkpoint stand in ``Reading``, those of every report in ``Reporting``.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from levit_deploy import choices

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .pth, .bin or .safetensors file, or a folder saved by timm or transformers.",
    ),
]
Artifact = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="A file that was exported or fused.")
]
Head = Annotated[choices.Head, typer.Option(help="Average the two heads, or keep one.")]


def _images(*more: str) -> Any:
    """--images, with its other uses in a command."""
    proof = "Prove it on up to 64 pictures in this folder, too, of any size."
    return typer.Option("--images", metavar="DIR", help=" ".join((proof, *more)))


Images = Annotated[Path | None, _images()]
CalibratingImages = Annotated[
    Path | None,
    _images(
        "int8 and w8a16 are calibrated on a quarter of them (at most 64) and judged on the rest "
        "(at most 1,000). int8-dynamic is judged on all."
    ),
]
JudgingImages = Annotated[
    Path | None, _images("int8, int8-dynamic and w8a16 need them, and are judged on at most 1,000.")
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help="Points that int8 may lose on --images: of top-1 if there is a folder for each class "
        "(default 0.3), else of agreement with float32 (default 0.5).",
    ),
]
Runtime = Annotated[
    choices.Runtime | None,
    typer.Option(help="Run an ONNX file in this runtime; the default is the one it is for."),
]
Confident = Annotated[
    bool,
    typer.Option(
        "--confident",
        help="Refuse int8 unless --images show, with 95 % confidence, that it loses no more than "
        "--max-drop. All of them judge it, not 1,000.",
    ),
]
PicturesAtOnce = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        max=1024,
        help="Pictures to run at once; the default is 8, or the artifact's fixed batch size.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=256, help="Threads of the runtime; the default is its own choice."),
]
