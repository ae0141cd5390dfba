"""The straight line: checkpoint, passes, layout, export, verify, publish."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from levit_deploy.checkpoint import Checkpoint, fused
from levit_deploy.errors import ArtifactError
from levit_deploy.exporters import EXPORTERS, ExportOptions
from levit_deploy.exporters.artifact import load_artifact
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.passes.heads import HEADS
from levit_deploy.provenance import Provenance
from levit_deploy.publish import staged
from levit_deploy.verification import Case, Verification, measure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A proven artifact at its destination.

    ``facts`` are what its format has to say of it, such as the number of ONNX nodes.
    """

    path: Path
    format: str
    head: str
    layout: str
    size_bytes: int
    sha256: str
    facts: dict[str, int]
    verification: Verification


def export(
    checkpoint: Checkpoint,
    format: str,
    output: str | Path,
    *,
    head: str = "mean",
    layout: str = "auto",
    options: ExportOptions | None = None,
    force: bool = False,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Export a checkpoint to ``output`` and prove the file before it gets that name.

    ``format`` is a key of ``EXPORTERS``; ``extra`` are inputs to prove it on besides the standard
    ones. Raises VerificationError where the proof fails; ``output`` is then as it was.
    """
    output, exporter, options = Path(output), EXPORTERS[format], options or ExportOptions()
    if layout == "auto":
        layout = exporter.auto_layout(options)
    with staged(output, source=checkpoint.path, force=force) as temporary:
        model = to_plain(checkpoint.model, head)
        if layout == "spatial":
            model = to_spatial(model)
        provenance = Provenance(checkpoint.sha256, checkpoint.config, head, layout)
        temporary.write_bytes(exporter.serialize(model, provenance, options))
        log.info("wrote %s in the %s layout, unproven so far", format, layout)
        facts = exporter.check_file(temporary)
        verification = prove(checkpoint, temporary, extra)
        sha256 = hashlib.sha256(temporary.read_bytes()).hexdigest()
    return Published(
        output, format, head, layout, output.stat().st_size, sha256, facts, verification
    )


def fuse(
    checkpoint: Checkpoint,
    output: str | Path,
    *,
    head: str = "mean",
    force: bool = False,
    extra: tuple[Case, ...] = (),
) -> Published:
    """Write the plain model as safetensors to ``output``, proven like any artifact."""
    output = Path(output)
    with staged(output, source=checkpoint.path, force=force) as temporary:
        provenance = Provenance(checkpoint.sha256, checkpoint.config, head, "tokens")
        temporary.write_bytes(fused.serialize(to_plain(checkpoint.model, head), provenance))
        verification = prove(checkpoint, temporary, extra)
        sha256 = hashlib.sha256(temporary.read_bytes()).hexdigest()
    return Published(
        output, "fused", head, "tokens", output.stat().st_size, sha256, {}, verification
    )


def prove(checkpoint: Checkpoint, path: str | Path, extra: tuple[Case, ...] = ()) -> Verification:
    """``verify``, but raising VerificationError where the artifact fails."""
    verification = verify(checkpoint, path, extra)
    verification.raise_if_failed()
    return verification


def verify(checkpoint: Checkpoint, path: str | Path, extra: tuple[Case, ...] = ()) -> Verification:
    """Compare the file at ``path`` with the checkpoint, whatever comes out.

    An artifact made with ``--head class`` or ``distill`` says so and is held to that head.
    """
    artifact = load_artifact(Path(path))
    head = artifact.metadata.get("head", "mean")
    if head not in HEADS:
        raise ArtifactError(
            f"{path} says it was made from the head {head!r}. Expected one of {', '.join(HEADS)}. "
            "Its metadata is damaged; export it again."
        )
    model = checkpoint.model if head == "mean" else HEADS[head](checkpoint.model)
    return measure(model, checkpoint.config, artifact, extra=extra)
