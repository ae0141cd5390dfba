"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from levit_deploy import __version__
from levit_deploy.ending import reports_errors, writing_output
from levit_deploy.errors import BackendError, InputError, OutputError, UsageError, VerificationError
from levit_deploy.interface import Input, Output
from levit_deploy.precision import Precision
from levit_deploy.status import status

if TYPE_CHECKING:
    from levit_deploy.checkpoint import Checkpoint
    from levit_deploy.pipeline import Published
    from levit_deploy.prediction import Prediction
    from levit_deploy.runtime.artifact import Artifact
    from levit_deploy.verification import Case

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
Cpu = Literal["any", "vnni"]
Engine = Literal["local", "ray"]

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript.pt"}

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
    typer.Option("-o", "--out", help="Where to write; beside the checkpoint if not given."),
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
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Prove it on the pictures in this folder, too: at most 64, of any size. int8 is "
        "calibrated on a quarter of them, at most 64, and judged by the others, at most 1,000.",
    ),
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
        help="The names of the classes, to be carried along: one a line, or JSON. The config's, "
        "where it has them, if not given.",
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
        help="Pictures to run at once; 8 if not given, or as many as the artifact is fixed to.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of the runtime; as many as it likes if not given."),
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
    loaded = _read(checkpoint, activation, image_size, weights, quiet=quiet)
    from levit_deploy import report

    _report(report.checkpoint_data(loaded), report.print_checkpoint, json_file, quiet, force)


@app.command()
@reports_errors
def fuse(
    checkpoint: CheckpointArgument,
    output: OutputOption = None,
    head: HeadOption = "mean",
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    preprocessing: PreprocessingOption = None,
    labels: LabelsOption = None,
    images: ImagesOption = None,
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
    _check_paths(
        checkpoint,
        labels=labels,
        images=images,
        output=output,
        json_file=json_file,
        force=force,
    )
    loaded = _read(checkpoint, activation, image_size, weights, preprocessing, labels, quiet=quiet)
    from levit_deploy import pipeline

    pictures = _pictures(loaded, images)
    with (
        _evidence_of_failure(loaded, output, json_file, quiet, force),
        status(f"writing and proving {output}", quiet=quiet),
    ):
        published = pipeline.fuse(loaded, output, head=head, force=force, extra=pictures)
    _report_published(published, loaded, images, json_file, quiet, force)


@app.command()
@reports_errors
def export(
    checkpoint: CheckpointArgument,
    format: Annotated[Format, typer.Option(help="What to write.")] = "onnx",
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--out",
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
        Layout, typer.Option(help="How the trunk lays out its data; auto is the fastest measured.")
    ] = "auto",
    head: HeadOption = "mean",
    takes: Annotated[
        Input,
        typer.Option(
            "--input",
            help="float32 images, normalised already, or uint8 (batch, height, width, channels), "
            "as a camera gives them, with the normalisation built in.",
        ),
    ] = "float32",
    gives: Annotated[
        Output, typer.Option("--output", help="Logits, or their softmax, built in.")
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
    preprocessing: PreprocessingOption = None,
    labels: LabelsOption = None,
    images: ImagesOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Export to ONNX or TorchScript; the file gets its name only once it is proven.

    Example: levit-deploy export ckpt.pth --format onnx -o ckpt.onnx
    """
    from levit_deploy.hub_folder import hub_folder, refuse_bad_hub_folder
    from levit_deploy.triton import TritonModel, refuse_bad_model

    if triton is not None and output is not None:
        raise UsageError("--triton and -o were both given. Leave one of them out.")
    output = output or str(_beside(checkpoint, SUFFIXES[format]))
    model = TritonModel(triton, _beside(checkpoint, "").name) if triton is not None else None
    folder = hub_folder(output) if model is None else model.folder
    file = Path(output) if folder is None else None
    _check_paths(
        checkpoint, labels=labels, images=images, output=file, json_file=json_file, force=force
    )
    if folder is not None:
        if model is not None:
            refuse_bad_model(model, force)
        else:
            refuse_bad_hub_folder(folder, force)
        if json_file is not None and folder.resolve() in Path(json_file).resolve().parents:
            raise UsageError(
                f"--json {json_file} is in the folder {folder}, which is to hold what is loaded "
                "from there and nothing else. Name a file in another folder with --json."
            )
    batch = _batch_size(batch_size)
    if precision != "int8" and (max_drop is not None or cpu != "any" or even_if_slower):
        raise UsageError(
            "--max-drop, --cpu and --even-if-slower are for int8. Leave them out, or give "
            "--precision int8."
        )
    loaded = _read(checkpoint, activation, image_size, weights, preprocessing, labels, quiet=quiet)
    from levit_deploy import pipeline
    from levit_deploy.exporters import ExportOptions
    from levit_deploy.quantization import Int8Options

    choices: dict[str, Any] = {
        "head": head,
        "layout": layout,
        "options": ExportOptions(opset, batch, takes, gives),
        "force": force,
        "extra": _pictures(loaded, images),
    }
    with (
        _evidence_of_failure(
            loaded, model.file(format) if model else Path(output), json_file, quiet, force
        ),
        status(f"writing and proving {folder or output}", quiet=quiet) as tell,
    ):
        if precision == "int8" and format == "onnx" and images is not None:
            int8 = Int8Options(images, max_drop, cpu, even_if_slower)
            published = pipeline.quantize(loaded, model or output, int8, **choices, progress=tell)
        else:
            published = pipeline.export(
                loaded, format, model or output, precision=precision, **choices
            )
    _report_published(published, loaded, images, json_file, quiet, force)


@app.command()
@reports_errors
def verify(
    checkpoint: CheckpointArgument,
    artifact: ArtifactArgument,
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    preprocessing: PreprocessingOption = None,
    images: ImagesOption = None,
    max_drop: MaxDropOption = None,
    page_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write the evidence as one HTML page, with the errors drawn, and the speed.",
        ),
    ] = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Prove that an artifact computes what its checkpoint does; exit 1 if not.

    Example: levit-deploy verify ckpt.pth ckpt.onnx --report proof.html
    """
    _check_paths(
        checkpoint,
        artifact,
        images=images,
        output=page_file,
        output_option="--report",
        json_file=json_file,
        force=force,
    )
    loaded = _read(checkpoint, activation, image_size, weights, preprocessing, quiet=quiet)
    from levit_deploy import pipeline

    pictures = _pictures(loaded, images)
    with _evidence_of_failure(loaded, artifact, json_file, quiet, force, page_file):
        with status(f"proving {artifact}", quiet=quiet):
            verification = pipeline.verify(
                loaded,
                artifact,
                extra=pictures,
                images=images,
                max_drop=max_drop,
                blocks=page_file is not None,
            )
        verification.raise_if_failed()
    with _said_first(f"{artifact} is proven"):
        _report_verification(verification, loaded, artifact, json_file, quiet, force, page_file)


@app.command()
@reports_errors
def bench(
    network: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|VARIANT",
            help="A checkpoint, or a published network such as LeViT-256, with random weights.",
        ),
    ],
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[ARTIFACT]...", help="Artifacts to time as well."),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Batch sizes to time.")
    ] = "1,8",
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 1,
    rounds: Annotated[int, typer.Option(min=2, help="How often each form has its turn.")] = 50,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the result as PNG.")
    ] = None,
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Time the original, the plain export and every form of ours, in turns, in one process.

    Example: levit-deploy bench LeViT-256 --batch-size 1
    """
    from levit_deploy.config import VARIANTS

    path = None if network in VARIANTS else Path(network)
    if path is None and (activation or image_size or weights):
        raise UsageError(
            f"--activation, --image-size and --weights are for checkpoints: {network} is timed as "
            "it was published. Leave them out, or give a checkpoint."
        )
    if path is not None and not os.path.lexists(path):
        raise InputError(
            f"{network} is no file, and no published network. Expected a checkpoint, or one of "
            f"{', '.join(VARIANTS)}. Check the path."
        )
    _check_paths(
        path,
        *(artifacts or ()),
        output=plot_file,
        output_option="--plot",
        json_file=json_file,
        force=force,
    )
    sizes = list(dict.fromkeys(_batch_size(size.strip()) for size in batch_size.split(",")))
    if None in sizes:
        raise UsageError("--batch-size dynamic cannot be timed. Give numbers, as in 1,8.")
    with status("loading torch", quiet=quiet):
        from levit_deploy import report
        from levit_deploy.bench import benchmark, random_network
    from levit_deploy.bench.plot import plot, require_plotting
    from levit_deploy.publish import staged

    if plot_file is not None:
        require_plotting()
    if path is None:
        config, head = VARIANTS[network], "mean"
        model = random_network(config)
    else:
        loaded = _read(path, activation, image_size, weights, quiet=quiet)
        model, config, head = loaded.model, loaded.config, loaded.head
    with status("making every form", quiet=quiet) as tell:
        result = benchmark(
            model,
            config,
            network=network,
            head=head,
            artifacts=artifacts or (),
            batch_sizes=[size for size in sizes if size is not None],
            threads=threads,
            rounds=rounds,
            progress=tell,
        )
    data = report.benchmark_data(result)
    if plot_file is not None:
        with staged(plot_file, sources=(), force=force, option="--plot") as temporary:
            plot(data, str(temporary))
    _report(data, report.print_benchmark, json_file, quiet, force)


@app.command()
@reports_errors
def predict(
    artifact: ArtifactArgument,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Pictures, and folders of them.")
    ],
    top_k: Annotated[int, typer.Option(min=1, help="How many answers to a picture.")] = 5,
    csv_file: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Write answers as CSV; - for standard output."),
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="One process here, or many, here or on a cluster, by Ray Data.")
    ] = "local",
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write answers as Parquet into this folder (Ray)."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes (Ray); one for each processor if not given."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Join the cluster there; one is started here if not given."
        ),
    ] = None,
    batch_size: PicturesAtOnceOption = None,
    threads: ThreadsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say what is in pictures: the most probable classes of each.

    What cannot be read is skipped with a warning. Answers are printed, or go where --json or --csv
    says.

    Example: levit-deploy predict ckpt.onnx cat.jpg photos/ --csv answers.csv
    """
    if json_file is not None and csv_file is not None:
        raise UsageError("--json and --csv were both given. Leave one of them out.")
    file, option = (json_file, "--json") if csv_file is None else (csv_file, "--csv")
    _check_paths(None, artifact, pictures=pictures, json_file=file, json_option=option, force=force)
    if engine == "ray":
        if parquet is None or file is not None:
            raise UsageError(
                "--engine ray writes Parquet, and nothing else. Name a folder for it with "
                "--parquet DIR, and leave --json and --csv out."
            )
        run = {"top_k": top_k, "batch_size": batch_size, "threads": threads, "workers": workers}
        _predict_on_ray(artifact, pictures, parquet, ray_address, force, quiet, **run)
        return
    if (parquet, workers, ray_address) != (None, None, None):
        raise UsageError(
            "--parquet, --workers and --ray-address are for Ray. Leave them out, or give --engine "
            "ray."
        )
    from levit_deploy.pictures import damage_passed_over
    from levit_deploy.prediction import every_picture, predictions
    from levit_deploy.prediction.output import answers_to, write_csv, write_json, write_text
    from levit_deploy.prediction.progress import progress_bar

    paths = every_picture(pictures)
    with (
        damage_passed_over(),
        _opened(artifact, threads, quiet) as opened,
        answers_to(file, force=force, option=option) as stream,
        progress_bar(
            lambda: sum(1 for _ in every_picture(pictures)),
            shown=any(path.is_dir() for path in pictures) and not stream.isatty(),
            quiet=quiet,
        ) as done,
        closing(predictions(opened, paths, top_k=top_k, batch_size=batch_size)) as found,
    ):
        written: Iterable[Prediction] = found
        if json_file is not None:
            written = write_json(found, stream, opened)
        elif csv_file is not None:
            written = write_csv(found, stream)
        elif not quiet:
            written = write_text(found, stream)
        for prediction in written:
            done(prediction.problem)


def _predict_on_ray(
    artifact: Path,
    pictures: Sequence[Path],
    folder: Path,
    address: str | None,
    force: bool,
    quiet: bool,
    **run: Any,
) -> None:
    """Answer pictures into a folder, and say what was skipped once all is done."""
    from levit_deploy.prediction.on_ray import predict_on_ray, require_ray

    require_ray()
    from levit_deploy.prediction import every_picture
    from levit_deploy.prediction.progress import progress_bar
    from levit_deploy.runtime.isolated import open_isolated

    with open_isolated(artifact, 1) as opened:
        total, problems = predict_on_ray(
            opened,
            every_picture(pictures),
            folder,
            address=address,
            force=force,
            progress=not quiet and sys.stderr.isatty(),
            **run,
        )
    with progress_bar(lambda: total, quiet=quiet, shown=False) as done:
        for problem in [*problems, *[""] * (total - len(problems))]:
            done(problem)


@app.command()
@reports_errors
def evaluate(
    artifact: ArtifactArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Pictures, in a folder for each class.")
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Run the original, too, and list the pictures to which it gives another answer.",
        ),
    ] = None,
    batch_size: PicturesAtOnceOption = None,
    threads: ThreadsOption = None,
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Count how often an artifact is right: top-1 and top-5 over class folders.

    Folders named like the artifact's labels are those classes; otherwise there is one for each, in
    the order of their names.

    Example: levit-deploy evaluate ckpt.onnx val/ --against ckpt.pth
    """
    _check_paths(against, artifact, images=folder, json_file=json_file, force=force)
    if against is None and (activation, image_size, weights) != (None, None, None):
        raise UsageError(
            "--activation, --image-size and --weights say how to read a checkpoint, and none was "
            "given. Leave them out, or give --against CHECKPOINT."
        )
    loaded = None
    if against is not None:
        loaded = _read(against, activation, image_size, weights, quiet=quiet)
    with status("loading torch", quiet=quiet):
        from levit_deploy import evaluation, report
    from levit_deploy.pictures import damage_passed_over, walk_pictures
    from levit_deploy.prediction.progress import progress_bar

    with (
        damage_passed_over(),
        progress_bar(lambda: sum(1 for _ in walk_pictures(folder)), quiet=quiet) as done,
    ):
        result = evaluation.evaluate(
            artifact,
            folder,
            against=loaded,
            batch_size=batch_size,
            threads=threads,
            progress=done,
        )
    _report(
        report.evaluation_data(result, loaded), report.print_evaluation, json_file, quiet, force
    )


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
    with status("loading torch", quiet=quiet):
        from levit_deploy import demo as demonstration
        from levit_deploy import report

    checkpoint = demonstration.read_demo_checkpoint(directory, force=force)
    data: dict[str, Any] = {"checkpoint": report.checkpoint_data(checkpoint), "published": []}
    _show(data["checkpoint"], report.print_checkpoint, json_file, quiet)
    everything = []
    steps = demonstration.publish_all(checkpoint, force=force)
    while True:
        with status("writing and proving the next file", quiet=quiet):
            published = next(steps, None)
        if published is None:
            break
        everything.append(published)
        data["published"].append(report.published_data(published))
        _show(data["published"][-1], report.print_published, json_file, quiet)
    with status("comparing and timing them", quiet=quiet):
        rows = demonstration.compare(checkpoint, everything)
    data["comparison"] = [asdict(row) for row in rows]
    _report(data, report.print_comparison, json_file, quiet, force)


def _read(
    path: Path,
    activation: str | None,
    image_size: str | None,
    weights: str | None,
    preprocessing: str | None = None,
    labels: Path | None = None,
    *,
    quiet: bool,
) -> Checkpoint:
    with status(f"reading {path}", quiet=quiet):  # and loading torch
        from levit_deploy.checkpoint import read_checkpoint
        from levit_deploy.labels import read_labels

        return read_checkpoint(
            path,
            weights=weights,
            activation=activation,
            image_size=_image_size(image_size),
            preprocessing=preprocessing,
            labels=read_labels(labels) if labels is not None else None,
        )


@contextmanager
def _opened(path: Path, threads: int | None, quiet: bool) -> Iterator[Artifact]:
    """An artifact in a process of its own, which takes a second to start."""
    with ExitStack() as stack:
        with status(f"opening {path}", quiet=quiet):
            from levit_deploy.runtime.isolated import open_isolated

            artifact = stack.enter_context(open_isolated(path, threads))
        yield artifact


def _pictures(checkpoint: Checkpoint, folder: Path | None) -> tuple[Case, ...]:
    if folder is None:
        return ()
    from levit_deploy.pictures import picture_case

    return (picture_case(checkpoint, folder),)


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
    *artifacts: Path,
    labels: Path | None = None,
    images: Path | None = None,
    pictures: Sequence[Path] = (),
    output: Path | None = None,
    output_option: str = "-o",
    json_file: str | None = None,
    json_option: str = "--json",
    force: bool,
) -> None:
    """Refuse what cannot be read or must not be written, before torch is imported."""
    from levit_deploy.publish import refuse_bad_destination

    inputs = [path for path in (checkpoint, *artifacts, labels) if path is not None]
    for path in filter(None, (checkpoint, *artifacts, labels, images, *pictures)):
        try:
            path.stat()
            if path is checkpoint and path.is_dir():  # its files are not to be overwritten
                inputs += path.iterdir()
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror}. Expected an existing "
                f"{'folder' if path is images else 'file'}. Check the path."
            ) from error
    for artifact in artifacts:
        if artifact.is_dir():
            raise InputError(
                f"{artifact} is a folder. Expected an artifact: an ONNX, TorchScript or fused "
                "file. Give the file inside the folder."
            )
    if images is not None and not images.is_dir():
        raise InputError(f"{images} is a file. Expected a folder with pictures in it. Name that.")
    report = None if json_file in (None, "-") else Path(str(json_file))
    folders = [path for path in (images, *pictures) if path is not None and path.is_dir()]
    inputs += [path for path in pictures if not path.is_dir()]
    if folders and (output is not None or report is not None):
        from levit_deploy.pictures import is_picture_below

        inputs += [
            path
            for path in (output, report)
            if path and any(is_picture_below(path, folder) for folder in folders)
        ]
    if output is not None:
        refuse_bad_destination(output, inputs, force, option=output_option)
    if report is not None:
        taken = [*inputs, output] if output is not None else inputs
        refuse_bad_destination(report, taken, force, option=json_option)


@contextmanager
def _evidence_of_failure(
    checkpoint: Checkpoint,
    output: Path,
    json_file: str | None,
    quiet: bool,
    force: bool,
    page_file: Path | None = None,
) -> Iterator[None]:
    """Print the figures of a proof that failed, too; they are what the user needs then."""
    try:
        yield
    except VerificationError as error:
        if error.evidence is not None:
            try:
                _report_verification(
                    error.evidence, checkpoint, output, json_file, quiet, force, page_file
                )
            except (OutputError, BackendError) as unwritten:  # which matters less
                raise VerificationError(f"{error} {unwritten}", error.evidence) from error
        raise


@contextmanager
def _said_first(done: str) -> Iterator[None]:
    """Where the report of what was done cannot be written, say that it was done."""
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{done}, but the report of it is not whole. {error}") from error


def _report_published(
    published: Published,
    checkpoint: Checkpoint,
    images: Path | None,
    json_file: str | None,
    quiet: bool,
    force: bool,
) -> None:
    from levit_deploy import report

    data = report.published_data(published, checkpoint)
    takes_bytes = published.verification.interface.input == "uint8"
    if (images is not None or takes_bytes) and checkpoint.preprocessing.assumed:
        data["assumed"].append(f"pictures are prepared as for ImageNet: {checkpoint.preprocessing}")
    with _said_first(f"{published.path} was published and is proven"):
        _report(data, report.print_published, json_file, quiet, force)


def _report_verification(
    verification: Any,
    checkpoint: Checkpoint,
    artifact: Path,
    json_file: str | None,
    quiet: bool,
    force: bool,
    page_file: Path | None = None,
) -> None:
    """Print a proof, or write it for a machine, and where a page is asked for, for a reader."""
    from levit_deploy import report
    from levit_deploy.publish import staged

    evidence = report.verification_data(verification, checkpoint)
    data = {"path": str(artifact), "verification": evidence}
    if page_file is not None:
        from levit_deploy.bench.beside import time_beside_original
        from levit_deploy.page import proof_page

        with status(f"timing {artifact} beside the original", quiet=quiet):
            data["beside_original"] = asdict(time_beside_original(checkpoint, artifact))
        with staged(page_file, sources=(), force=force, option="--report") as temporary:
            temporary.write_text(proof_page(data), encoding="utf-8")
    _report(data, report.print_verified, json_file, quiet, force)


def _report(
    data: dict[str, Any],
    printer: Callable[..., None],
    json_file: str | None,
    quiet: bool,
    force: bool,
) -> None:
    """Print for a person, or write for a machine."""
    from levit_deploy import report
    from levit_deploy.publish import staged

    _show(data, printer, json_file, quiet)
    if json_file == "-":
        with writing_output():
            print(report.to_json(data))
    elif json_file is not None:
        report_file = Path(json_file)
        with staged(report_file, sources=(), force=force, option="--json") as temporary:
            temporary.write_text(report.to_json(data) + "\n")


def _show(
    data: dict[str, Any], printer: Callable[..., None], json_file: str | None, quiet: bool
) -> None:
    """Print for a person, unless nothing is to be printed or standard output is for JSON."""
    from levit_deploy import report

    if not quiet and json_file != "-":
        with writing_output():
            printer(data, report.console())


def main() -> None:
    """The ``levit-deploy`` command."""
    app()
