"""The straight line: checkpoint, passes, layout, export, verify, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from levit_deploy.checkpoint import Checkpoint, fused
from levit_deploy.errors import ArtifactError, UsageError, VerificationError
from levit_deploy.exporters import EXPORTERS, Exporter, ExportOptions
from levit_deploy.exporters.onnx import OPSETS
from levit_deploy.exporters.onnx_contract import check_batches
from levit_deploy.hub_folder import MODEL, hub_folder, staged_hub_folder
from levit_deploy.interface import DEFAULT, Interface
from levit_deploy.layout import LAYOUTS, to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.passes.heads import HEADS
from levit_deploy.precision import PRECISIONS, Precision
from levit_deploy.preprocessing import Preprocessing
from levit_deploy.provenance import Provenance, claimed_precision
from levit_deploy.publish import staged, sync
from levit_deploy.quantization import (
    Int8Options,
    Judging,
    Quantization,
    judging_pictures,
    quantized,
    split_pictures,
)
from levit_deploy.quantization.proof import measure_int8
from levit_deploy.runtime.artifact import Artifact, load_artifact
from levit_deploy.runtime.isolated import open_isolated, runtime_process
from levit_deploy.triton import TritonModel, staged_model, write_config
from levit_deploy.verification import Case, Verification, measure

log = logging.getLogger(__name__)

Destination = str | Path | TritonModel


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
    exporter, options = EXPORTERS[format], options or ExportOptions()
    computes_in = _precision(precision, format)
    if computes_in == "int8":
        raise UsageError(
            "int8 needs pictures to calibrate on and to judge by. Give --images DIR, a folder of "
            "such as the network will meet; in Python, call quantize."
        )
    if layout == "auto":
        layout = exporter.auto_layout(options)
    _refuse_folder_for_other_ends(output, options)

    def serialize() -> bytes:
        provenance = _provenance(checkpoint, head, layout, computes_in, options.interface())
        return exporter.serialize(_form(checkpoint, head, layout), provenance, options)

    return _publish(checkpoint, output, serialize, exporter, head, layout, force, extra)


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
    options = options or ExportOptions()
    if layout == "auto":
        layout = "tokens"  # in which int8 was measured to be faster (docs/performance.md)
    _refuse_folder_for_other_ends(output, options)
    interface = options.interface()
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
        plain = _plain_onnx(checkpoint, head, layout, options)
        rival = _plain_onnx(checkpoint, head, "spatial", replace(options, opset=None))
        proto, how = quantized(plain, rival, calibration, pictures, int8, progress)
        made.append(how)
        progress("proving it")
        provenance = _provenance(checkpoint, head, layout, "int8", interface)
        onnx.helper.set_model_props(proto, provenance.to_metadata())
        data: bytes = proto.SerializeToString(deterministic=True)
        return data

    published = _publish(
        checkpoint,
        output,
        serialize,
        EXPORTERS["onnx"],
        head,
        layout,
        force,
        extra,
        pictures,
        int8.max_drop,
    )
    return replace(published, quantization=made[0])


def _form(checkpoint: Checkpoint, head: str, layout: str) -> LeViT:
    """The plain model, in a layout."""
    model = to_plain(checkpoint.model, head)
    return to_spatial(model) if layout == "spatial" else model


def _plain_onnx(checkpoint: Checkpoint, head: str, layout: str, options: ExportOptions) -> bytes:
    """The float32 network as ONNX, which an int8 one is the rounding of."""
    provenance = _provenance(checkpoint, head, layout, interface=options.interface())
    return EXPORTERS["onnx"].serialize(_form(checkpoint, head, layout), provenance, options)


def fuse(
    checkpoint: Checkpoint,
    output: str | Path,
    *,
    head: str = "mean",
    force: bool = False,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Write the plain model as safetensors to ``output``, proven like any artifact."""

    def serialize() -> bytes:
        model = to_plain(checkpoint.model, head)
        return fused.serialize(model, _provenance(checkpoint, head, "tokens"))

    return _publish(checkpoint, output, serialize, None, head, "tokens", force, extra)


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
        return _measure(checkpoint, artifact, extra, pictures, max_drop, blocks)


def _measure(
    checkpoint: Checkpoint,
    artifact: Artifact,
    extra: tuple[Case, ...],
    pictures: Judging | None = None,
    max_drop: float | None = None,
    blocks: bool = False,
) -> Verification:
    model, head = original(checkpoint, artifact)
    try:
        precision = claimed_precision(artifact.metadata)
    except ValueError as error:
        raise ArtifactError(
            f"{artifact.path} cannot be held to a budget: {error}. A later version of this tool "
            "may have written it. Upgrade, or export it again."
        ) from error
    if artifact.interface.input == "uint8":
        _require_same_normalisation(checkpoint, artifact)
    if precision == "int8":
        return measure_int8(
            model,
            checkpoint.config,
            artifact,
            _float_form(checkpoint, artifact),
            head=head,
            names=checkpoint.block_names,
            extra=extra,
            pictures=pictures,
            max_drop=max_drop,
            preprocessing=checkpoint.preprocessing,
            blocks=blocks,
        )
    return measure(
        model,
        checkpoint.config,
        artifact,
        head=head,
        precision=precision,
        names=checkpoint.block_names,
        extra=extra,
        preprocessing=checkpoint.preprocessing,
        blocks=blocks,
    )


def original(checkpoint: Checkpoint, artifact: Artifact) -> tuple[LeViT, str]:
    """The network that an artifact is held to, with the head it says it has, and that head.

    Raises ArtifactError where the checkpoint has no such head.
    """
    head = artifact.metadata.get("head", checkpoint.head)
    if head == checkpoint.head:
        return checkpoint.model, head
    if head in HEADS and checkpoint.config.distillation:
        return HEADS[head](checkpoint.model), head
    raise ArtifactError(
        f"{artifact.path} computes the logits of the head {head!r}, the checkpoint only those of "
        f"{checkpoint.head!r}. Give the checkpoint it was made from."
    )


def _require_same_normalisation(checkpoint: Checkpoint, artifact: Artifact) -> None:
    """Raise VerificationError where an artifact says that it normalises bytes in another way.

    The proof would fail as well, but not say why. Where it says nothing, the proof has to tell.
    """
    try:
        claimed = Preprocessing.from_json(artifact.metadata["preprocessing"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    own = checkpoint.preprocessing
    if (claimed.mean, claimed.std) != (own.mean, own.std):
        raise VerificationError(
            f"{artifact.path} says that it normalises bytes by another mean or standard deviation "
            f"({claimed}) than the checkpoint's pictures are ({own}). Expected the same. If the "
            f'artifact is right, give --preprocessing "{claimed}".'
        )


def _float_form(checkpoint: Checkpoint, artifact: Artifact) -> bytes:
    """What an int8 artifact must be the rounding of, exported as the artifact says it was."""
    if artifact.format != "onnx":
        raise ArtifactError(
            f"{artifact.path} says that it computes in int8, and is no ONNX file. Expected one "
            "that levit-deploy export wrote."
        )
    proto = onnx.load(artifact.path, load_external_data=False)
    opset = next((used.version for used in proto.opset_import if used.domain == ""), None)
    layout = artifact.metadata.get("layout", "")
    if opset not in OPSETS or layout not in LAYOUTS:
        raise ArtifactError(
            f"{artifact.path} has the layout {layout!r} and opset {opset}. Expected one of "
            f"{', '.join(LAYOUTS)}, and {OPSETS[0]} to {OPSETS[-1]}. Export it again."
        )
    interface = artifact.interface
    options = ExportOptions(opset, artifact.batch_size, interface.input, interface.output)
    head = artifact.metadata.get("head", "mean")
    return _plain_onnx(
        checkpoint,
        "mean" if head == checkpoint.head else head,
        layout,
        options,
    )


def _publish(
    checkpoint: Checkpoint,
    output: Destination,
    serialize: Callable[[], bytes],
    exporter: Exporter | None,
    head: str,
    layout: str,
    force: bool,
    extra: tuple[Case, ...],
    pictures: Judging | None = None,
    max_drop: float | None = None,
) -> Published:
    """Write, prove and rename: what every kind of file goes through.

    ``exporter`` is None for a fused file: numbers, which only code of ours runs.
    """
    _one_of("head", head, HEADS)
    path, stage = _place(output, checkpoint, exporter, force)
    with stage as temporary, _runtime(exporter) as load:
        temporary.write_bytes(serialize())
        sync(temporary)
        log.info("wrote the file under a temporary name; proving it")
        facts = exporter.check_file(temporary) if exporter else {}
        artifact = load(temporary)
        check_batches(artifact)
        verification = _measure(checkpoint, artifact, extra, pictures, max_drop)
        verification.raise_if_failed()
        if isinstance(output, TritonModel):
            write_config(artifact)
    size = path.stat().st_size
    return Published(path, layout, size, facts, checkpoint.assumed, verification)


def _place(
    output: Destination, checkpoint: Checkpoint, exporter: Exporter | None, force: bool
) -> tuple[Path, AbstractContextManager[Path]]:
    """Where the artifact will stand, and what gives its temporary path and brings it there."""
    if isinstance(output, TritonModel):
        format = next(name for name, known in EXPORTERS.items() if known is exporter)
        return output.file(format), staged_model(output, format, force=force)
    folder = hub_folder(output) if exporter is not None else None
    if folder is None:
        return Path(output), staged(Path(output), sources=checkpoint.files, force=force)
    if exporter is not EXPORTERS["onnx"]:
        raise UsageError(
            f"-o names a folder, {folder}, as Optimum loads one, which reads ONNX. Choose --format "
            "onnx, or name a file with -o."
        )
    return folder / MODEL, staged_hub_folder(folder, checkpoint, force=force)


def _refuse_folder_for_other_ends(output: Destination, options: ExportOptions) -> None:
    """Raise UsageError where Optimum would misread what an artifact takes or gives."""
    if isinstance(output, TritonModel):  # which says what they are
        return
    if options.interface() != DEFAULT and (folder := hub_folder(output)) is not None:
        raise UsageError(
            f"-o names a folder, {folder}, as Optimum loads one, which gives normalised images and "
            "takes what comes out for logits. Leave --input and --output out, or name a file with "
            "-o."
        )


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


def _provenance(
    checkpoint: Checkpoint,
    head: str,
    layout: str,
    precision: Precision = "fp32",
    interface: Interface = DEFAULT,
) -> Provenance:
    return Provenance(
        checkpoint.sha256,
        checkpoint.config,
        checkpoint.head if head == "mean" else head,
        layout,
        checkpoint.weights,
        checkpoint.assumed,
        checkpoint.preprocessing,
        precision,
        interface,
        checkpoint.labels,
    )


def _one_of(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(choices)}.")
