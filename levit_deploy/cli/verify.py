"""``levit-deploy verify``: prove an existing artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from levit_deploy.cli import options
from levit_deploy.cli.paths import Inputs
from levit_deploy.cli.reading import ReadingWithUse
from levit_deploy.cli.reporting import ReportingWithPage
from levit_deploy.cli.status import status

if TYPE_CHECKING:
    from levit_deploy.checkpoint import Checkpoint


def verify(
    checkpoint: options.Checkpoint,
    artifact: options.Artifact,
    *,
    runtime: options.Runtime = None,
    reading: ReadingWithUse,
    images: options.JudgingImages = None,
    max_drop: options.MaxDrop = None,
    confident: options.Confident = False,
    reporting: ReportingWithPage,
) -> None:
    """Prove that an artifact computes the same as its checkpoint; exit 1 if it does not.

    Example: levit-deploy verify ckpt.pth ckpt.onnx --report proof.html
    """
    inputs = Inputs(
        checkpoint=checkpoint,
        artifacts=[artifact],
        labels=reading.labels,
        expect=reading.expect,
        images=images,
    )
    reporting.check_paths(inputs)
    reporting.remove_earlier()
    loaded = reading.read(checkpoint, quiet=reporting.quiet)
    from levit_deploy import pipeline

    with reporting.evidence_of_failure(loaded, artifact):
        with status(f"proving {artifact}", quiet=reporting.quiet):
            verification = pipeline.verify(
                loaded,
                artifact,
                images=images,
                max_drop=max_drop,
                runtime=runtime,
                confident=confident,
            )
        if images is not None or verification.interface.input == "uint8":
            reporting.warn_of_assumed(loaded.preprocessing)
        verification.raise_if_failed(_advice(loaded))
    reporting.proven(verification, loaded, artifact)


def _advice(checkpoint: Checkpoint) -> str:
    """What else could be wrong than the artifact."""
    if not checkpoint.proven_if:
        return ""
    return f"Or it is not so that {' and '.join(checkpoint.proven_if)}: --expect would tell."
