"""``levit-deploy verify``: prove an existing artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.options import (
    ActivationOption,
    ArtifactArgument,
    CheckpointArgument,
    ForceOption,
    ImageSizeOption,
    JsonOption,
    JudgingImagesOption,
    LabelsOption,
    MaxDropOption,
    PreprocessingOption,
    QuietOption,
    VerboseOption,
    WeightsOption,
)
from levit_deploy.cli.paths import Inputs, check_paths
from levit_deploy.cli.reading import Reading
from levit_deploy.cli.reporting import Reporting
from levit_deploy.cli.status import status


@reports_errors
def verify(
    checkpoint: CheckpointArgument,
    artifact: ArtifactArgument,
    activation: ActivationOption = None,
    image_size: ImageSizeOption = None,
    weights: WeightsOption = None,
    preprocessing: PreprocessingOption = None,
    labels: LabelsOption = None,
    images: JudgingImagesOption = None,
    max_drop: MaxDropOption = None,
    page_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write the evidence as an HTML page, with charts and the speed.",
        ),
    ] = None,
    json_file: JsonOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Prove that an artifact computes the same as its checkpoint; exit 1 if it does not.

    Example: levit-deploy verify ckpt.pth ckpt.onnx --report proof.html
    """
    reading = Reading(
        activation=activation,
        image_size=image_size,
        weights=weights,
        preprocessing=preprocessing,
        labels=labels,
    )
    reporting = Reporting(json=json_file, quiet=quiet, force=force, page=page_file)
    inputs = Inputs(checkpoint=checkpoint, artifacts=[artifact], labels=labels, images=images)
    outputs = {"--report": page_file, "--json": reporting.json_file}
    check_paths(inputs, outputs, force=force)
    _remove_earlier_verdicts(outputs)
    loaded = reading.read(checkpoint, quiet=quiet)
    from levit_deploy import pipeline

    with reporting.evidence_of_failure(loaded, artifact):
        with status(f"proving {artifact}", quiet=quiet):
            verification = pipeline.verify(
                loaded,
                artifact,
                images=images,
                max_drop=max_drop,
                blocks=page_file is not None,
            )
        if images is not None or verification.interface.input == "uint8":
            reporting.warn_of_assumed(loaded.preprocessing)
        verification.raise_if_failed()
    reporting.proven(verification, loaded, artifact)


def _remove_earlier_verdicts(outputs: Mapping[str, Path | None]) -> None:
    """Remove what an earlier run wrote, or it could be taken for the verdict of this one."""
    from levit_deploy.publish.file import remove_earlier

    for option, path in outputs.items():
        if path is not None:
            remove_earlier(path, option)
