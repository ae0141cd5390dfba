"""The straight line: checkpoint, passes, layout, export, verify, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from levit_deploy.checkpoint import Checkpoint, checkpoint_of, fused
from levit_deploy.choices import (
    HEADS,
    LAYOUTS,
    Head,
    Layout,
    LayoutChoice,
    Precision,
    require_one_of,
)
from levit_deploy.errors import UsageError
from levit_deploy.pictures.split import Judging, judging_pictures, split_pictures
from levit_deploy.publish.destination import Destination, Place, file_place, place_of
from levit_deploy.publish.file import sync
from levit_deploy.quantization.quantize import Int8Options, quantized
from levit_deploy.quantization.search import Quantization
from levit_deploy.runtime.artifact import Artifact, load_artifact
from levit_deploy.runtime.isolated import open_isolated, runtime_process
from levit_deploy.targets.checks import interface_of, precision_of
from levit_deploy.targets.onnx_contract import check_batches
from levit_deploy.targets.plain import plain_form, plain_onnx, provenance_of
from levit_deploy.targets.target import EXPORTERS, Exporter, ExportOptions
from levit_deploy.verification.accuracy import require_drop
from levit_deploy.verification.inputs import Case, picture_case
from levit_deploy.verification.prove import claimed_labels, prove
from levit_deploy.verification.result import Verification

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A proven artifact at its destination.

    ``facts`` are what its format has to say of it, such as the number of ONNX nodes; ``assumed``
    is what the checkpoint did not say. ``quantization`` is how int8 came about.
    """

    path: Path
    layout: str
    size_bytes: int
    facts: dict[str, int]
    assumed: tuple[str, ...]
    verification: Verification
    quantization: Quantization | None = None


def export(
    checkpoint: Checkpoint | str | Path,
    format: str,
    output: Destination,
    *,
    head: Head = "mean",
    layout: LayoutChoice = "auto",
    precision: Precision = "fp32",
    options: ExportOptions | None = None,
    force: bool = False,
    images: str | Path | None = None,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Export a checkpoint to ``output`` and prove the file before it gets that name.

    ``checkpoint`` is what ``load`` gives, or the path of one that needs no options. ``format`` is a
    key of ``EXPORTERS``; ``layout`` is 'auto', 'tokens' or 'spatial'; ``head`` is 'mean', 'class'
    or 'distill'; ``precision``, what it computes in between float32 images and float32 logits, is
    'fp32', 'fp16' (ONNX) or 'bf16' (TorchScript), and for int8 there is ``quantize``; ``options``
    say whether it takes bytes or gives probabilities instead. It is proven on the standard inputs,
    on at most 64 of the pictures below the folder ``images``, and on ``extra``. An ``output`` that
    is a folder, by a / at its end or because it exists, gets the ONNX of a transformers folder and
    its configs (``hub_folder``); a ``TritonModel`` is one in a model repository of Triton's. Raises
    VerificationError where the proof fails; ``output`` is then as it was.
    """
    require_one_of("format", format, EXPORTERS)
    require_one_of("layout", layout, ("auto", *LAYOUTS))
    require_one_of("head", head, HEADS)
    checkpoint = checkpoint_of(checkpoint)
    exporter, options = EXPORTERS[format], options or ExportOptions()
    computes_in = precision_of(precision, format)
    if computes_in == "int8":
        raise UsageError(
            "int8 needs pictures to calibrate on and to judge by. Give --images DIR, a folder of "
            "such as the network will meet; in Python, call quantize."
        )
    chosen: Layout = exporter.auto_layout(options) if layout == "auto" else layout
    interface = interface_of(checkpoint, options)
    place = place_of(output, checkpoint, format, interface, force=force)
    extra += _picture_cases(checkpoint, images)

    def serialize() -> bytes:
        provenance = provenance_of(checkpoint, head, chosen, computes_in, interface)
        return exporter.serialize(plain_form(checkpoint, head, chosen), provenance, options)

    return _publish(checkpoint, place, serialize, exporter, chosen, extra)


def quantize(
    checkpoint: Checkpoint | str | Path,
    output: Destination,
    int8: Int8Options | str | Path,
    *,
    head: Head = "mean",
    layout: LayoutChoice = "auto",
    options: ExportOptions | None = None,
    force: bool = False,
    extra: tuple[Case, ...] = (),
    progress: Callable[[str], object] = lambda _doing: None,
) -> Published:
    """Export a checkpoint as ONNX that computes in int8, as right and faster, or not at all.

    ``int8`` says on which pictures, and how right; a path stands for the folder of pictures, with
    the defaults for the rest. It is proven on them, too. ``progress`` is told what is being done;
    all else is as for ``export``. Raises VerificationError, and leaves ``output`` as it was, where
    the proof fails, no int8 network answers the pictures well enough, or it is not faster.
    """
    require_one_of("layout", layout, ("auto", *LAYOUTS))
    require_one_of("head", head, HEADS)
    int8 = int8 if isinstance(int8, Int8Options) else Int8Options(int8)
    checkpoint = checkpoint_of(checkpoint)
    options = options or ExportOptions()
    # tokens, in which int8 was measured to be faster (docs/performance.md)
    chosen: Layout = "tokens" if layout == "auto" else layout
    interface = interface_of(checkpoint, options)
    place = place_of(output, checkpoint, "onnx", interface, force=force)
    calibration, pictures = split_pictures(
        Path(int8.images),
        checkpoint.transform,
        checkpoint.config.num_classes,
        interface.input,
        checkpoint.labels,
    )
    extra += _picture_cases(checkpoint, int8.images)
    progress("reading the pictures")
    for _ in pictures.batches():  # one that cannot be read is to be known before the work is done
        pass
    made: list[Quantization] = []

    def serialize() -> bytes:
        plain = plain_onnx(checkpoint, head, chosen, options)
        rival = plain_onnx(checkpoint, head, "spatial", replace(options, opset=None))
        proto, how = quantized(plain, rival, calibration, pictures, int8, progress)
        made.append(how)
        progress("proving it")
        provenance = provenance_of(checkpoint, head, chosen, "int8", interface)
        onnx.helper.set_model_props(proto, provenance.to_metadata())
        data: bytes = proto.SerializeToString(deterministic=True)
        return data

    exporter = EXPORTERS["onnx"]
    published = _publish(
        checkpoint, place, serialize, exporter, chosen, extra, pictures, int8.max_drop
    )
    return replace(published, quantization=made[0])


def fuse(
    checkpoint: Checkpoint | str | Path,
    output: str | Path,
    *,
    head: Head = "mean",
    force: bool = False,
    images: str | Path | None = None,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Write the plain model as safetensors to ``output``, proven like any artifact.

    The arguments, and what is raised, are as for ``export``.
    """
    require_one_of("head", head, HEADS)
    checkpoint = checkpoint_of(checkpoint)
    place = file_place(output, checkpoint, force=force)
    extra += _picture_cases(checkpoint, images)

    def serialize() -> bytes:
        provenance = provenance_of(checkpoint, head, "tokens")
        return fused.serialize(plain_form(checkpoint, head, "tokens"), provenance)

    return _publish(checkpoint, place, serialize, None, "tokens", extra)


def verify(
    checkpoint: Checkpoint | str | Path,
    path: str | Path,
    *,
    images: str | Path | None = None,
    extra: tuple[Case, ...] = (),
    max_drop: float | None = None,
    blocks: bool = False,
) -> Verification:
    """Compare the artifact at ``path`` with the checkpoint, whatever comes out.

    An artifact made with ``--head class`` or ``distill`` says so and is held to that head, one that
    computes in fp16 or bf16 to the budget of that precision; the result names both. ``checkpoint``,
    ``images`` and ``extra`` are as for ``export``; an int8 artifact is also judged by up to 1,000
    of the pictures, and may lose ``max_drop`` points on them. ``blocks`` asks for the error of
    every block where the artifact is right, too.
    """
    require_drop(max_drop)
    checkpoint = checkpoint_of(checkpoint)
    extra += _picture_cases(checkpoint, images)
    with open_isolated(Path(path)) as artifact:
        is_int8 = artifact.metadata.get("precision") == "int8"
        if max_drop is not None and not is_int8:
            raise UsageError(
                f"--max-drop is for int8, and {path} does not compute in it. Leave the option out."
            )
        pictures = None
        if images is not None and is_int8:
            pictures = judging_pictures(
                Path(images),
                checkpoint.transform,
                checkpoint.config.num_classes,
                artifact.interface.input,
                checkpoint.labels or claimed_labels(artifact),
            )
        return prove(
            checkpoint,
            artifact,
            extra=extra,
            pictures=pictures,
            max_drop=max_drop,
            blocks=blocks,
        )


def _picture_cases(checkpoint: Checkpoint, folder: str | Path | None) -> tuple[Case, ...]:
    """The inputs that pictures add to a proof."""
    return () if folder is None else (picture_case(checkpoint, folder),)


def _publish(
    checkpoint: Checkpoint,
    place: Place,
    serialize: Callable[[], bytes],
    exporter: Exporter | None,
    layout: Layout,
    extra: tuple[Case, ...],
    pictures: Judging | None = None,
    max_drop: float | None = None,
) -> Published:
    """Write, prove and rename: what every kind of file goes through.

    ``exporter`` is None for a fused file: numbers, which only code of ours runs.
    """
    with place.stage as temporary, _runtime(exporter) as load:
        temporary.write_bytes(serialize())
        sync(temporary)
        log.info("wrote the file under a temporary name; proving it")
        facts = exporter.check_file(temporary) if exporter else {}
        artifact = load(temporary)
        check_batches(artifact)
        verification = prove(
            checkpoint, artifact, extra=extra, pictures=pictures, max_drop=max_drop
        )
        verification.raise_if_failed()
        place.complete(artifact)
    size = place.path.stat().st_size
    return Published(place.path, layout, size, facts, checkpoint.assumed, verification)


@contextmanager
def _runtime(exporter: Exporter | None) -> Iterator[Callable[[Path], Artifact]]:
    """What loads the artifact that is about to be written."""
    if exporter is None:
        yield load_artifact
    else:
        with runtime_process(exporter.runtime_modules) as load:
            yield load
