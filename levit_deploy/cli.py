"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from levit_deploy import __version__
from levit_deploy.ending import reader_may_leave, reports_errors
from levit_deploy.errors import InputError, UsageError, VerificationError

if TYPE_CHECKING:
    from levit_deploy.checkpoint import Checkpoint

app = typer.Typer(
    help="Turn a trained LeViT into the fastest artifact your runtime can run, with proof.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Format = Literal["onnx", "torchscript"]
Layout = Literal["auto", "tokens", "spatial"]
Head = Literal["mean", "class", "distill"]
Activation = Literal["hardswish", "silu", "gelu"]
Weights = Literal["model", "ema"]

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript.pt"}

CheckpointArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .pth, .bin or .safetensors file, or a folder as timm or transformers save it.",
    ),
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
JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", help="Write the report as JSON; - for standard output."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Print steps and tracebacks.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"levit-deploy {__version__}")
        raise typer.Exit


@app.command()
@reports_errors
def inspect(
    checkpoint: CheckpointArgument,
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say what a checkpoint is: family, variant, architecture, cost, and what was assumed.

    Example: levit-deploy inspect ckpt.pth
    """
    _check_paths(checkpoint, json_file=json_file, force=force)
    from levit_deploy import report

    loaded = _read(checkpoint, activation, image_size, weights)
    _report(report.checkpoint_data(loaded), report.print_checkpoint, json_file, quiet)


@app.command()
@reports_errors
def fuse(
    checkpoint: CheckpointArgument,
    output: OutputOption = None,
    head: HeadOption = "mean",
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write the network in plain layers, as safetensors, proven against the original.

    Every other command takes the result back as a CHECKPOINT.

    Example: levit-deploy fuse ckpt.pth -o ckpt.fused.safetensors
    """
    output = output or _beside(checkpoint, ".fused.safetensors")
    _check_paths(checkpoint, output=output, json_file=json_file, force=force)
    from levit_deploy import pipeline, report

    loaded = _read(checkpoint, activation, image_size, weights)
    with _evidence_of_failure(loaded, output, json_file, quiet):
        published = pipeline.fuse(loaded, output, head=head, force=force)
    _report(report.published_data(published, loaded), report.print_published, json_file, quiet)


@app.command()
@reports_errors
def export(
    checkpoint: CheckpointArgument,
    format: Annotated[Format, typer.Option(help="What to write.")] = "onnx",
    output: OutputOption = None,
    layout: Annotated[
        Layout, typer.Option(help="How the trunk lays out its data; auto is the fastest measured.")
    ] = "auto",
    head: HeadOption = "mean",
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX operator set, 17 (the default) to 23; from 23 the tokens layout, which auto "
            "then takes, has the Attention operator."
        ),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(metavar="dynamic|N", help="Leave the batch open, or fix it (ONNX).")
    ] = "dynamic",
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Export to ONNX or TorchScript; the file gets its name only once it is proven.

    Example: levit-deploy export ckpt.pth --format onnx -o ckpt.onnx
    """
    output = output or _beside(checkpoint, SUFFIXES[format])
    _check_paths(checkpoint, output=output, json_file=json_file, force=force)
    batch = _batch_size(batch_size)
    from levit_deploy import pipeline, report
    from levit_deploy.exporters import ExportOptions

    loaded = _read(checkpoint, activation, image_size, weights)
    with _evidence_of_failure(loaded, output, json_file, quiet):
        published = pipeline.export(
            loaded,
            format,
            output,
            head=head,
            layout=layout,
            options=ExportOptions(opset=opset, batch_size=batch),
            force=force,
        )
    _report(report.published_data(published, loaded), report.print_published, json_file, quiet)


@app.command()
@reports_errors
def verify(
    checkpoint: CheckpointArgument,
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="An .onnx, TorchScript or fused file.")
    ],
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Prove that an artifact computes what its checkpoint does; exit 1 if not.

    Example: levit-deploy verify ckpt.pth ckpt.onnx
    """
    _check_paths(checkpoint, artifact, json_file=json_file, force=force)
    from levit_deploy import pipeline

    loaded = _read(checkpoint, activation, image_size, weights)
    verification = pipeline.verify(loaded, artifact)
    _report_verification(verification, loaded, artifact, json_file, quiet)
    verification.raise_if_failed()


@app.command()
@reports_errors
def demo(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Where to leave the files.")
    ] = Path("levit-deploy-demo"),
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Do the whole job on a small LeViT trained on real scanned digits; downloads nothing.

    Example: levit-deploy demo /tmp/levit
    """
    _check_paths(json_file=json_file, force=force)
    import dataclasses

    from levit_deploy import demo as demonstration
    from levit_deploy import report

    checkpoint = demonstration.read_demo_checkpoint(directory, force=force)
    data: dict[str, Any] = {"checkpoint": report.checkpoint_data(checkpoint), "published": []}
    _show(data["checkpoint"], report.print_checkpoint, json_file, quiet)
    everything = []
    for published in demonstration.publish_all(checkpoint, force=force):
        everything.append(published)
        data["published"].append(report.published_data(published))
        _show(data["published"][-1], report.print_published, json_file, quiet)
    rows = demonstration.compare(checkpoint, everything)
    data["comparison"] = [dataclasses.asdict(row) for row in rows]
    _report(data, report.print_comparison, json_file, quiet)


def _read(
    path: Path, activation: str | None, image_size: str | None, weights: str | None
) -> Checkpoint:
    from levit_deploy.checkpoint import read_checkpoint

    return read_checkpoint(
        path, weights=weights, activation=activation, image_size=_image_size(image_size)
    )


def _image_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(map(_is_count, sides)):
        raise UsageError(
            f"--image-size {text} is no size. Expected a number of pixels, as in 224, or height "
            "and width, as in 192x256."
        )
    return int(sides[0]), int(sides[-1])


def _batch_size(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not _is_count(text):
        raise UsageError(
            f"--batch-size {text} is no size. Expected a positive number of images, or dynamic."
        )
    return int(text)


def _is_count(text: str) -> bool:
    """Whether a text is a positive number of pixels or images, and a sensible one."""
    return text.isascii() and text.isdecimal() and len(text) < 7 and int(text) > 0


def _beside(checkpoint: Path, suffix: str) -> Path:
    """The checkpoint's path with another suffix, for a folder with one more."""
    if checkpoint.is_dir():
        named = checkpoint if checkpoint.name not in ("", "..") else checkpoint.resolve()
        return named.parent / (named.name + suffix)
    return checkpoint.parent / (checkpoint.stem + suffix)


def _check_paths(
    checkpoint: Path | None = None,
    artifact: Path | None = None,
    *,
    output: Path | None = None,
    json_file: str | None = None,
    force: bool,
) -> None:
    """Refuse what cannot be read or must not be written, before torch is imported."""
    from levit_deploy.publish import refuse_bad_destination

    inputs = [path for path in (checkpoint, artifact) if path is not None]
    for path in list(inputs):
        try:
            path.stat()
            if path is checkpoint and path.is_dir():  # its files are not to be overwritten
                inputs += path.iterdir()
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror}. Expected an existing file. Check the "
                "path."
            ) from error
    if artifact is not None and artifact.is_dir():
        raise InputError(
            f"{artifact} is a folder. Expected an artifact: an ONNX, TorchScript or fused file. "
            "Give the file inside the folder."
        )
    if output is not None:
        refuse_bad_destination(output, inputs, force)
    if json_file not in (None, "-"):
        taken = [*inputs, output] if output is not None else inputs
        refuse_bad_destination(Path(str(json_file)), taken, force, option="--json")


@contextmanager
def _evidence_of_failure(
    checkpoint: Checkpoint, output: Path, json_file: str | None, quiet: bool
) -> Iterator[None]:
    """Print the figures of a proof that failed, too; they are what the user needs then."""
    try:
        yield
    except VerificationError as error:
        if error.evidence is not None:
            _report_verification(error.evidence, checkpoint, output, json_file, quiet)
        raise


def _report_verification(
    verification: Any, checkpoint: Checkpoint, artifact: Path, json_file: str | None, quiet: bool
) -> None:
    from levit_deploy import report

    evidence = report.verification_data(verification, checkpoint)
    data = {"path": str(artifact), "verification": evidence}
    _report(data, report.print_verified, json_file, quiet)


def _report(
    data: dict[str, Any], printer: Callable[..., None], json_file: str | None, quiet: bool
) -> None:
    """Print for a person, or write for a machine."""
    from levit_deploy import report
    from levit_deploy.publish import staged

    _show(data, printer, json_file, quiet)
    if json_file == "-":
        with reader_may_leave():
            print(report.to_json(data))
    elif json_file is not None:
        with staged(Path(json_file), sources=(), force=True) as temporary:
            temporary.write_text(report.to_json(data) + "\n")


def _show(
    data: dict[str, Any], printer: Callable[..., None], json_file: str | None, quiet: bool
) -> None:
    """Print for a person, unless nothing is to be printed or standard output is for JSON."""
    from levit_deploy import report

    if not quiet and json_file != "-":
        with reader_may_leave():
            printer(data, report.console())


def main() -> None:
    """The ``levit-deploy`` command."""
    app()
