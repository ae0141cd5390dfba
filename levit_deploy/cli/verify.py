"""``levit-deploy verify``: prove an artifact that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.inputs import check_paths, json_path, read
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
from levit_deploy.cli.outputs import (
    evidence_of_failure,
    report_verification,
    said_first,
    warn_of_assumed,
)
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
    check_paths(
        checkpoint,
        artifact,
        labels=labels,
        images=images,
        output=page_file,
        output_option="--report",
        json_file=json_file,
        force=force,
    )
    from levit_deploy.publish.file import remove_earlier

    # an earlier verdict must not be taken for this one's, however this one ends
    if page_file is not None:
        remove_earlier(page_file, "--report")
    if (file := json_path(json_file)) is not None:
        remove_earlier(file, "--json")
    loaded = read(checkpoint, activation, image_size, weights, preprocessing, labels, quiet=quiet)
    from levit_deploy import pipeline

    with evidence_of_failure(loaded, artifact, json_file, quiet, force, page_file):
        with status(f"proving {artifact}", quiet=quiet):
            verification = pipeline.verify(
                loaded,
                artifact,
                images=images,
                max_drop=max_drop,
                blocks=page_file is not None,
            )
        if images is not None or verification.interface.input == "uint8":
            warn_of_assumed(loaded.preprocessing, quiet)
        verification.raise_if_failed()
    with said_first(f"{artifact} is proven"):
        report_verification(verification, loaded, artifact, json_file, quiet, force, page_file)
