"""The straight line: checkpoint, passes, layout, export, verify, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from levit_deploy.checkpoint import Checkpoint, fused
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.exporters import EXPORTERS, Exporter, ExportOptions
from levit_deploy.exporters.onnx_contract import check_batches
from levit_deploy.layout import LAYOUTS, to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.passes.heads import HEADS
from levit_deploy.precision import PRECISIONS, Precision
from levit_deploy.provenance import Provenance, claimed_precision
from levit_deploy.publish import staged, sync
from levit_deploy.runtime.artifact import Artifact, load_artifact
from levit_deploy.runtime.isolated import open_isolated, runtime_process
from levit_deploy.verification import Case, Verification, measure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A proven artifact at its destination.

    ``facts`` are what its format has to say of it, such as the number of ONNX nodes; ``assumed``
    is what the checkpoint did not say.
    """

    path: Path
    layout: str
    size_bytes: int
    facts: dict[str, int]
    assumed: tuple[str, ...]
    verification: Verification


def export(
    checkpoint: Checkpoint,
    format: str,
    output: str | Path,
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
    float32 logits, is 'fp32', 'fp16' (ONNX) or 'bf16' (TorchScript); ``extra`` are inputs to prove
    it on besides the standard ones. Raises VerificationError where the proof fails; ``output`` is
    then as it was.
    """
    _one_of("format", format, EXPORTERS)
    _one_of("layout", layout, ("auto", *LAYOUTS))
    exporter, options = EXPORTERS[format], options or ExportOptions()
    computes_in = _precision(precision, format)
    if layout == "auto":
        layout = exporter.auto_layout(options)

    def serialize() -> bytes:
        model = to_plain(checkpoint.model, head)
        if layout == "spatial":
            model = to_spatial(model)
        provenance = _provenance(checkpoint, head, layout, computes_in)
        return exporter.serialize(model, provenance, options)

    return _publish(checkpoint, Path(output), serialize, exporter, head, layout, force, extra)


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

    return _publish(checkpoint, Path(output), serialize, None, head, "tokens", force, extra)


def verify(
    checkpoint: Checkpoint, path: str | Path, *, extra: tuple[Case, ...] = ()
) -> Verification:
    """Compare the artifact at ``path`` with the checkpoint, whatever comes out.

    An artifact made with ``--head class`` or ``distill`` says so and is held to that head, one that
    computes in fp16 or bf16 to the budget of that precision; the result names both.
    """
    with open_isolated(Path(path)) as artifact:
        return _measure(checkpoint, artifact, extra)


def _measure(checkpoint: Checkpoint, artifact: Artifact, extra: tuple[Case, ...]) -> Verification:
    head = artifact.metadata.get("head", checkpoint.head)
    if head == checkpoint.head:
        model = checkpoint.model
    elif head in HEADS and checkpoint.config.distillation:
        model = HEADS[head](checkpoint.model)
    else:
        raise ArtifactError(
            f"{artifact.path} computes the logits of the head {head!r}, the checkpoint only those "
            f"of {checkpoint.head!r}. Give the checkpoint it was made from."
        )
    try:
        precision = claimed_precision(artifact.metadata)
    except ValueError as error:
        raise ArtifactError(
            f"{artifact.path} cannot be held to a budget: {error}. A later version of this tool "
            "may have written it. Upgrade, or export it again."
        ) from error
    return measure(
        model,
        checkpoint.config,
        artifact,
        head=head,
        precision=precision,
        names=checkpoint.block_names,
        extra=extra,
    )


def _publish(
    checkpoint: Checkpoint,
    output: Path,
    serialize: Callable[[], bytes],
    exporter: Exporter | None,
    head: str,
    layout: str,
    force: bool,
    extra: tuple[Case, ...],
) -> Published:
    """Write, prove and rename: what every kind of file goes through.

    ``exporter`` is None for a fused file: numbers, which only code of ours runs.
    """
    _one_of("head", head, HEADS)
    with (
        staged(output, sources=checkpoint.files, force=force) as temporary,
        _runtime(exporter) as load,
    ):
        temporary.write_bytes(serialize())
        sync(temporary)
        log.info("wrote the file under a temporary name; proving it")
        facts = exporter.check_file(temporary) if exporter else {}
        artifact = load(temporary)
        check_batches(artifact)
        verification = _measure(checkpoint, artifact, extra)
        verification.raise_if_failed()
    size = output.stat().st_size
    return Published(output, layout, size, facts, checkpoint.assumed, verification)


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
    checkpoint: Checkpoint, head: str, layout: str, precision: Precision = "fp32"
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
    )


def _one_of(option: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(choices)}.")
