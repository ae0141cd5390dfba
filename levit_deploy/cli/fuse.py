"""``levit-deploy fuse``: write plain layers."""

from pathlib import Path
from typing import Annotated

import typer

from levit_deploy.cli import options
from levit_deploy.cli.paths import Inputs
from levit_deploy.cli.reading import ReadingWithUse
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.status import status
from levit_deploy.publish.naming import beside


def fuse(
    checkpoint: options.Checkpoint,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to write; the default is beside the checkpoint."
        ),
    ] = None,
    head: options.Head = "mean",
    reading: ReadingWithUse,
    images: options.Images = None,
    reporting: Reporting,
) -> None:
    """Fuse a checkpoint into plain layers, as safetensors, proven against the original.

    Every other command takes the result as a CHECKPOINT.

    Example: levit-deploy fuse ckpt.pth -o ckpt.fused.safetensors
    """
    output = output or beside(checkpoint, ".fused.safetensors")
    inputs = Inputs(
        checkpoint=checkpoint, labels=reading.labels, expect=reading.expect, images=images
    )
    reporting.check_paths(inputs, {"-o": output})
    loaded = reading.read(checkpoint, quiet=reporting.quiet)
    from levit_deploy import pipeline

    with (
        reporting.evidence_of_failure(loaded, output),
        status(f"writing and proving {output}", quiet=reporting.quiet),
    ):
        published = pipeline.fuse(loaded, output, head=head, force=reporting.force, images=images)
    reporting.published(published, loaded)
