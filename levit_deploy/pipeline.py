"""The straight line: checkpoint, passes, layout, target, verification, publishing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.arrays import Images
from levit_deploy.checkpoint import Checkpoint, Source, checkpoint_of
from levit_deploy.choices import (
    HEADS,
    ROUNDED,
    Head,
    Layout,
    LayoutChoice,
    Precision,
    Runtime,
    require_one_of,
)
from levit_deploy.errors import UsageError
from levit_deploy.memory import give_back
from levit_deploy.pictures.split import Judging, judging_pictures, split_pictures
from levit_deploy.publish.destination import Destination, path_of, staged_output
from levit_deploy.publish.file import staged, sync
from levit_deploy.quantization.outcome import Quantization
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.formats import Format, target_named
from levit_deploy.targets.fused import FUSED
from levit_deploy.targets.load import open_isolated, runtime_of
from levit_deploy.targets.plan import Plan, planned
from levit_deploy.targets.target import ExportOptions
from levit_deploy.verification.accuracy import require_drop, require_enough
from levit_deploy.verification.exported_again import exported_again
from levit_deploy.verification.inputs import Case, picture_case
from levit_deploy.verification.measure import answered_ahead
from levit_deploy.verification.original import Originals
from levit_deploy.verification.prove import prove
from levit_deploy.verification.result import Verification
from levit_deploy.verification.same_pictures_and_labels import claimed_labels

if TYPE_CHECKING:
    from levit_deploy.quantization.quantize import Int8Options

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A proven artifact at its destination.

    ``facts`` are the target's, such as the number of ONNX nodes. ``assumed`` lists in words the
    facts that the checkpoint does not hold. ``quantization`` tells how an int8 artifact was made.
    """

    path: Path
    layout: Layout
    size_bytes: int
    facts: dict[str, int]
    assumed: tuple[str, ...]
    verification: Verification
    quantization: Quantization | None = None


def export(
    checkpoint: Checkpoint | Source,
    format: Format,
    output: Destination,
    *,
    head: Head = "mean",
    layout: LayoutChoice = "auto",
    precision: Precision = "fp32",
    options: ExportOptions | None = None,
    runtime: Runtime = "onnxruntime",
    force: bool = False,
    images: str | Path | None = None,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Export a checkpoint to ``output`` and prove the file before it gets that name.

    Args:
        checkpoint: The result of ``load``, or what ``load`` takes, if it needs no options: a path,
            a torch module, or its state dict.
        format: The target.
        output: A file. A folder, by a / at its end or because it exists, gets an ONNX file and
            configs that Optimum loads. A ``TritonModel`` is one in a model repository of Triton's.
        head: The mean of the two heads, or one of them.
        layout: The trunk's layout; 'auto' is the target's ``auto_layout``.
        precision: The number format inside the network: 'fp16' for ONNX, 'bf16' for torch.
            For int8, int8-dynamic and w8a16 call ``quantize``.
        options: The operator set, the batch size, bytes as input, and the output: logits,
            probabilities, features or feature maps; for PT2, if it is compiled.
        runtime: The runtime that an ONNX file is for, and is proven in.
        force: Replace an existing file.
        images: A folder; at most 64 of the pictures below it join the proof.
        extra: More inputs for the proof.

    Raises:
        VerificationError: The proof fails. ``output`` is then as it was.
        UsageError: The choices contradict each other or the checkpoint.
        InputError: The checkpoint or a picture cannot be read, or overflows in this precision.
        OutputError: ``output`` cannot, or must not, be written.
        BackendError: The runtime crashes, hangs or runs out of memory.
    """
    plan = planned(
        checkpoint_of(checkpoint),
        target_named(format, runtime, compile=options is not None and options.compile),
        head=head,
        layout=layout,
        precision=precision,
        options=options,
    )
    if plan.precision in ROUNDED:
        raise UsageError(
            f"{plan.precision} needs pictures to judge by. Give --images DIR, a folder of such as "
            "the network will meet; in Python, call quantize."
        )
    extra += _picture_cases(plan.checkpoint, images)
    with staged_output(output, plan, force=force) as temporary, runtime_of(plan.target) as load:
        originals = Originals()
        original = originals.of_file(plan.checkpoint, temporary, plan.provenance.to_metadata())
        with answered_ahead(original, plan.interface, plan.precision, extra):
            temporary.write_bytes(plan.serialize())
            return _proven(plan, path_of(output, plan), temporary, load, extra, originals=originals)


def proven_file(
    plan: Plan, path: Path, *, extra: tuple[Case, ...] = (), originals: Originals | None = None
) -> Published:
    """Prove a file of a plan that was written to its place already, and is not rounded.

    ``extra`` are more inputs for the proof, and ``originals`` as for ``prove``. Raises
    VerificationError and BackendError as ``export`` does.
    """
    with runtime_of(plan.target) as load:
        return _proven(plan, path, path, load, extra, originals=originals)


def quantize(
    checkpoint: Checkpoint | Source,
    output: Destination,
    int8: Int8Options | str | Path,
    *,
    format: Format = "onnx",
    precision: Precision = "int8",
    head: Head = "mean",
    layout: LayoutChoice = "auto",
    options: ExportOptions | None = None,
    runtime: Runtime = "onnxruntime",
    force: bool = False,
    extra: tuple[Case, ...] = (),
    progress: Callable[[str], object] = lambda _doing: None,
    originals: Originals | None = None,
) -> Published:
    """Export a checkpoint that computes in int8, as right and faster, or not at all.

    Args:
        checkpoint: As for ``export``.
        output: As for ``export``.
        int8: The pictures to calibrate on and to judge by, and how right int8 must be. A path
            stands for the folder of pictures, with the defaults for the rest.
        format: The target.
        precision: 'int8'. For ONNX also 'w8a16', for NPUs: 16 bits for activations, which is not
            timed here. For ExecuTorch and LiteRT also 'int8-dynamic', which rounds the weights, and
            the activations as they come.
        head: As for ``export``.
        layout: As for ``export``.
        options: As for ``export``.
        runtime: As for ``export``.
        force: As for ``export``.
        extra: As for ``export``.
        progress: A function that is told each step.
        originals: Shared by the proofs of several artifacts of the checkpoint, which take less time
            then.

    Raises:
        VerificationError: The proof fails, no int8 network answers the pictures well enough, or
            none is faster. ``output`` is then as it was.
        LevitDeployError: As for ``export``.
    """
    from levit_deploy.quantization.quantize import Int8Options, quantized  # half a second

    int8 = int8 if isinstance(int8, Int8Options) else Int8Options(int8)
    require_one_of("precision", precision, ROUNDED)
    target = target_named(format, runtime)
    if precision == "w8a16" and int8.even_if_slower:
        raise UsageError(
            "--even-if-slower is for int8. w8a16 is for NPUs, and is not timed here. Leave the "
            "option out."
        )
    if int8.cpu != "any" and (precision != "int8" or target.name != "onnx"):
        raise UsageError(
            f"--cpu {int8.cpu} is for int8 in ONNX, and neither for another precision nor for "
            "another format. Leave the option out."
        )
    plan = planned(
        checkpoint_of(checkpoint),
        target,
        head=head,
        layout=layout,
        precision=precision,
        options=options,
    )
    extra += _picture_cases(plan.checkpoint, int8.images)
    with staged_output(output, plan, force=force) as temporary, runtime_of(plan.target) as load:
        calibration, pictures = _split(plan, int8, progress)
        write, quantization = quantized(plan, calibration, pictures, int8, progress)
        provenance = replace(plan.provenance, accuracy=quantization.accuracy.sentence)
        temporary.write_bytes(write(provenance))
        progress("proving it")
        return _proven(
            plan,
            path_of(output, plan),
            temporary,
            load,
            extra,
            pictures,
            int8.max_drop,
            int8.confident,
            quantization,
            originals,
        )


def fuse(
    checkpoint: Checkpoint | Source,
    output: str | Path,
    *,
    head: Head = "mean",
    force: bool = False,
    images: str | Path | None = None,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Write the plain network as safetensors to ``output``, proven like any artifact.

    ``output`` is a file. A network without a head gives its features. The other arguments and the
    errors are those of ``export``.
    """
    require_one_of("head", head, HEADS)
    checkpoint = checkpoint_of(checkpoint)
    plan = Plan(
        checkpoint=checkpoint,
        target=FUSED,
        head=head,
        layout="tokens",
        options=ExportOptions(output="features" if checkpoint.config.headless else "logits"),
    )
    extra += _picture_cases(plan.checkpoint, images)
    with (
        staged(Path(output), sources=plan.checkpoint.files, force=force) as temporary,
        runtime_of(plan.target) as load,
    ):
        temporary.write_bytes(plan.serialize())
        return _proven(plan, Path(output), temporary, load, extra)


def verify(
    checkpoint: Checkpoint | Source,
    path: str | Path,
    *,
    images: str | Path | None = None,
    extra: tuple[Case, ...] = (),
    max_drop: float | None = None,
    runtime: Runtime | None = None,
    confident: bool = False,
) -> Verification:
    """Compare the artifact at ``path`` with the checkpoint, and return the figures of any outcome.

    An artifact names its head and precision, and is held to that head and to the budget of that
    precision. If this version wrote it, the file is also compared with what is exported again.

    Args:
        checkpoint: As for ``export``.
        path: A file that was exported or fused, or an ONNX file of another tool.
        images: A folder; at most 64 of the pictures below it join the proof. An int8 artifact needs
            it, and is judged by up to 1,000 of them.
        extra: More inputs for the proof.
        max_drop: The points of top-1 that an int8 artifact may lose on ``images``.
        runtime: The runtime that an ONNX file is to be proven in; None stands for the one that its
            metadata name, or else onnxruntime.
        confident: Ask that ``images``, all of them, show that with 95 % confidence.

    Raises:
        InputError: The checkpoint, the artifact or a picture cannot be read or compared.
        VerificationError: The artifact takes other images, gives other classes, names another use,
            or is not the checkpoint's network, rounded.
        UsageError: A rounded artifact comes without ``images``, or ``max_drop`` or ``confident``
            without one.
        BackendError: The runtime crashes, hangs or runs out of memory.
    """
    require_drop(max_drop)
    checkpoint = checkpoint_of(checkpoint)
    extra += _picture_cases(checkpoint, images)
    with open_isolated(Path(path), runtime=runtime) as artifact:
        is_rounded = artifact.metadata.get("precision") in ROUNDED
        if (max_drop is not None or confident) and not is_rounded:
            option = "--confident" if max_drop is None else "--max-drop"
            raise UsageError(
                f"{option} is for {', '.join(ROUNDED)}, and {path} computes in none of them. Leave "
                "the option out."
            )
        pictures = None
        if images is not None and is_rounded:
            pictures = judging_pictures(
                Path(images),
                checkpoint.transform,
                checkpoint.config.num_classes,
                artifact.interface.input,
                checkpoint.labels or claimed_labels(artifact),
                every=confident,
            )
        verification = prove(
            checkpoint,
            artifact,
            extra=extra,
            pictures=pictures,
            max_drop=max_drop,
            confident=confident,
        )
    log.info("comparing %s with what is exported again", path)
    return replace(verification, graph=exported_again(checkpoint, artifact))


def _picture_cases(checkpoint: Checkpoint, folder: str | Path | None) -> tuple[Case, ...]:
    """The inputs that pictures add to a proof."""
    return () if folder is None else (picture_case(checkpoint, folder),)


def _split(
    plan: Plan, int8: Int8Options, progress: Callable[[str], object]
) -> tuple[Images, Judging]:
    """The pictures to calibrate on, and those to judge by, all of them readable.

    Nothing is calibrated for int8-dynamic: all judge, and the first are given twice.
    """
    checkpoint, folder = plan.checkpoint, Path(int8.images)
    classes = checkpoint.config.num_classes
    prepared = (checkpoint.transform, classes, plan.interface.input, checkpoint.labels)
    if plan.precision == "int8-dynamic":
        pictures = judging_pictures(folder, *prepared, every=int8.confident)
        calibration = next(pictures.batches())
    else:
        calibration, pictures = split_pictures(folder, *prepared, every=int8.confident)
    if int8.confident:
        require_enough(pictures, int8.max_drop)
    progress("reading the pictures")
    for _ in pictures.batches():  # a picture that cannot be read ends this before the work does
        pass
    return calibration, pictures


def _proven(
    plan: Plan,
    path: Path,
    temporary: Path,
    load: Callable[[Path], Artifact],
    extra: tuple[Case, ...],
    pictures: Judging | None = None,
    max_drop: float | None = None,
    confident: bool = False,
    quantization: Quantization | None = None,
    originals: Originals | None = None,
) -> Published:
    """Prove the file that was written, which every kind of file goes through.

    It gets its name ``path`` once the caller's staging block ends.
    """
    sync(temporary)  # a staged folder syncs only its own entries, and Triton's file is below them
    size = temporary.stat().st_size
    log.info(
        "wrote %s bytes as %s, %s layout: %s", f"{size:,}", plan.target.name, plan.layout, temporary
    )
    facts = plan.target.check_file(temporary)
    give_back(cycles=True)  # before the artifact and the original need it
    artifact = load(temporary)
    log.info("opened the file in %s: batch %s", artifact.runtime, artifact.batch_size or "free")
    verification = prove(
        plan.checkpoint,
        artifact,
        extra=extra,
        pictures=pictures,
        max_drop=max_drop,
        confident=confident,
        originals=originals,
    )
    verification.raise_if_failed()
    log.info("proven: renaming the file to %s", path)
    return Published(
        path=path,
        layout=plan.layout,
        size_bytes=size,
        facts=facts,
        assumed=plan.checkpoint.assumed,
        verification=verification,
        quantization=quantization,
    )
