"""The straight line: checkpoint, passes, layout, export, verify, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from levit_deploy.checkpoint import Checkpoint, fused
from levit_deploy.destination import Destination, Place, file_place, place_of
from levit_deploy.errors import UsageError
from levit_deploy.exporters import EXPORTERS, Exporter, ExportOptions
from levit_deploy.exporters.onnx_contract import check_batches
from levit_deploy.forms import plain_form, plain_onnx, provenance_of
from levit_deploy.interface import Interface, why_no_softmax
from levit_deploy.layout import LAYOUTS
from levit_deploy.passes.heads import HEADS
from levit_deploy.precision import PRECISIONS, Precision
from levit_deploy.proving import prove
from levit_deploy.publish import sync
from levit_deploy.quantization import (
    Int8Options,
    Judging,
    Quantization,
    judging_pictures,
    quantized,
    split_pictures,
)
from levit_deploy.runtime.artifact import Artifact, load_artifact
from levit_deploy.runtime.isolated import open_isolated, runtime_process
from levit_deploy.verification import Case, Verification

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
    checkpoint: Checkpoint,
    format: str,
    output: Destination,
    *,
    head: str = "mean",
    layout: str = "auto",
    precision: str = "fp32",
    options: ExportOptions | None = None,
    force: bool = False,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Export a checkpoint to ``output`` and prove the file before it gets that name.

    ``format`` is a key of ``EXPORTERS``; ``layout`` is 'auto', 'tokens' or 'spatial'; ``head`` is
    'mean', 'class' or 'distill'; ``precision``, what it computes in between float32 images and
    float32 logits, is 'fp32', 'fp16' (ONNX) or 'bf16' (TorchScript), and for int8 there is
    ``quantize``; ``options`` say whether it takes bytes or gives probabilities instead; ``extra``
    are inputs to prove it on besides the standard ones. An ``output`` that is a folder, by a / at
    its end or because it exists, gets the ONNX of a transformers folder and its configs
    (``hub_folder``); a ``TritonModel`` is one in a model repository of Triton's. Raises
    VerificationError where the proof fails; ``output`` is then as it was.
    """
    _one_of("format", format, EXPORTERS)
    _one_of("layout", layout, ("auto", *LAYOUTS))
    _one_of("head", head, HEADS)
    exporter, options = EXPORTERS[format], options or ExportOptions()
    computes_in = _precision(precision, format)
    if computes_in == "int8":
        raise UsageError(
            "int8 needs pictures to calibrate on and to judge by. Give --images DIR, a folder of "
            "such as the network will meet; in Python, call quantize."
        )
    if layout == "auto":
        layout = exporter.auto_layout(options)
    interface = _interface(checkpoint, options)
    place = place_of(output, checkpoint, format, interface, force=force)

    def serialize() -> bytes:
        provenance = provenance_of(checkpoint, head, layout, computes_in, interface)
        return exporter.serialize(plain_form(checkpoint, head, layout), provenance, options)

    return _publish(checkpoint, place, serialize, exporter, layout, extra)


def quantize(
    checkpoint: Checkpoint,
    output: Destination,
    int8: Int8Options,
    *,
    head: str = "mean",
    layout: str = "auto",
    options: ExportOptions | None = None,
    force: bool = False,
    extra: tuple[Case, ...] = (),
    progress: Callable[[str], object] = lambda _doing: None,
) -> Published:
    """Export a checkpoint as ONNX that computes in int8, as right and faster, or not at all.

    ``int8`` says on which pictures, and how right; ``progress`` is told what is being done; the
    rest is as for ``export``. Raises VerificationError, and leaves ``output`` as it was, where the
    proof fails, no int8 network answers the pictures well enough, or it is not faster.
    """
    _one_of("layout", layout, ("auto", *LAYOUTS))
    _one_of("head", head, HEADS)
    options = options or ExportOptions()
    if layout == "auto":
        layout = "tokens"  # in which int8 was measured to be faster (docs/performance.md)
    interface = _interface(checkpoint, options)
    place = place_of(output, checkpoint, "onnx", interface, force=force)
    calibration, pictures = split_pictures(
        int8.images,
        checkpoint.config,
        checkpoint.preprocessing,
        interface.input,
        checkpoint.labels,
    )
    progress("reading the pictures")
    for _ in pictures.batches():  # one that cannot be read is to be known before the work is done
        pass
    made: list[Quantization] = []

    def serialize() -> bytes:
        plain = plain_onnx(checkpoint, head, layout, options)
        rival = plain_onnx(checkpoint, head, "spatial", replace(options, opset=None))
        proto, how = quantized(plain, rival, calibration, pictures, int8, progress)
        made.append(how)
        progress("proving it")
        provenance = provenance_of(checkpoint, head, layout, "int8", interface)
        onnx.helper.set_model_props(proto, provenance.to_metadata())
        data: bytes = proto.SerializeToString(deterministic=True)
        return data

    exporter = EXPORTERS["onnx"]
    published = _publish(
        checkpoint, place, serialize, exporter, layout, extra, pictures, int8.max_drop
    )
    return replace(published, quantization=made[0])


def fuse(
    checkpoint: Checkpoint,
    output: str | Path,
    *,
    head: str = "mean",
    force: bool = False,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Write the plain model as safetensors to ``output``, proven like any artifact."""
    _one_of("head", head, HEADS)
    place = file_place(output, checkpoint, force=force)

    def serialize() -> bytes:
        provenance = provenance_of(checkpoint, head, "tokens")
        return fused.serialize(plain_form(checkpoint, head, "tokens"), provenance)

    return _publish(checkpoint, place, serialize, None, "tokens", extra)


def verify(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    extra: tuple[Case, ...] = (),
    images: Path | None = None,
    max_drop: float | None = None,
    blocks: bool = False,
) -> Verification:
    """Compare the artifact at ``path`` with the checkpoint, whatever comes out.

    An artifact made with ``--head class`` or ``distill`` says so and is held to that head, one that
    computes in fp16 or bf16 to the budget of that precision; the result names both. An int8 one is
    judged by the pictures in the folder ``images``, and may lose ``max_drop`` points on them.
    ``blocks`` asks for the error of every block where the artifact is right, too.
    """
    with open_isolated(Path(path)) as artifact:
        if max_drop is not None and artifact.metadata.get("precision") != "int8":
            raise UsageError(
                f"--max-drop is for int8, and {path} does not compute in it. Leave the option out."
            )
        pictures = None
        if images is not None and artifact.metadata.get("precision") == "int8":
            pictures = judging_pictures(
                images,
                checkpoint.config,
                checkpoint.preprocessing,
                artifact.interface.input,
                checkpoint.labels,
            )
        return prove(checkpoint, artifact, extra, pictures, max_drop, blocks)


def _interface(checkpoint: Checkpoint, options: ExportOptions) -> Interface:
    """What the artifact takes and gives; UsageError for probabilities that would be none."""
    interface = options.interface()
    reason = why_no_softmax(checkpoint.problem_type, checkpoint.config.num_classes)
    if interface.output == "probabilities" and reason:
        raise UsageError(
            f"--output probabilities is the softmax of the logits, and {reason}. Leave the option "
            "out, and make of the logits what the network was trained for."
        )
    return interface


def _publish(
    checkpoint: Checkpoint,
    place: Place,
    serialize: Callable[[], bytes],
    exporter: Exporter | None,
    layout: str,
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
        verification = prove(checkpoint, artifact, extra, pictures, max_drop)
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


def _precision(name: str, format: str) -> Precision:
    """The precision of that name, which the format has to know."""
    _one_of("precision", name, PRECISIONS)
    known = EXPORTERS[format].precisions
    for precision in known:
        if precision == name:
            return precision
    others = [other for other, exporter in EXPORTERS.items() if name in exporter.precisions]
    raise UsageError(
        f"--precision {name} is not for --format {format}, which computes in {' or '.join(known)}. "
        f"Choose one of these, or --format {' or '.join(others)}."
    )


def _one_of(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(choices)}.")
