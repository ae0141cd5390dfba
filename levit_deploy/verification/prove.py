"""Prove an artifact against its checkpoint, by the head and precision in its metadata."""

import logging
from itertools import zip_longest

import onnx

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import HEADS, LAYOUTS, Precision, known
from levit_deploy.errors import ArtifactError, VerificationError
from levit_deploy.interface import SINGLE_LABEL
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.pictures.split import Judging
from levit_deploy.provenance import Provenance, claimed_precision, is_ours
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.onnx import ONNX
from levit_deploy.targets.onnx_opsets import OPSETS
from levit_deploy.targets.plan import Plan
from levit_deploy.targets.target import ExportOptions
from levit_deploy.verification.inputs import Case
from levit_deploy.verification.int8 import measure_int8
from levit_deploy.verification.measure import measure
from levit_deploy.verification.original import original_of
from levit_deploy.verification.result import Verification

log = logging.getLogger(__name__)


def prove(
    checkpoint: Checkpoint,
    artifact: Artifact,
    *,
    extra: tuple[Case, ...] = (),
    pictures: Judging | None = None,
    max_drop: float | None = None,
    blocks: bool = False,
) -> Verification:
    """Measure an artifact against the checkpoint, in the precision that its metadata names.

    The rest is as for ``measure`` and ``measure_int8``. Raises ArtifactError if the metadata does
    not say which, VerificationError if it names other pictures or classes than the checkpoint.
    """
    original = original_of(checkpoint, artifact)
    precision = _precision(artifact)
    _require_same_use(checkpoint, artifact)
    log.info(
        "proving %s: %s, %s, %s head", artifact.path, artifact.format, precision, original.head
    )
    if precision == "int8":
        return measure_int8(
            original,
            artifact,
            _float_form(checkpoint, artifact),
            pictures=pictures,
            max_drop=max_drop,
            extra=extra,
            blocks=blocks,
        )
    return measure(original, artifact, precision=precision, extra=extra, blocks=blocks)


def _precision(artifact: Artifact) -> Precision:
    try:
        return claimed_precision(artifact.metadata)
    except ValueError as error:
        raise ArtifactError(
            f"{artifact.path} cannot be held to a budget: {error}. A later version of this tool "
            "may have written it. Upgrade, or export it again."
        ) from error


def _require_same_use(checkpoint: Checkpoint, artifact: Artifact) -> None:
    """Raise VerificationError if an artifact states another use than the checkpoint.

    Its use is how pictures become inputs, the names of the classes, and the meaning of the logits.
    A use that the checkpoint does not state is not compared, except for the normalisation of bytes:
    the proof would fail otherwise, without the reason. Raises ArtifactError for a file of ours
    with metadata that cannot be read, as other programs may go by it. A file that is not ours
    states nothing.
    """
    claimed = _claimed(artifact)
    if claimed is not None:
        _require_same_pictures(checkpoint, artifact, claimed)
        _require_same_labels(checkpoint, artifact, claimed)
        if checkpoint.problem_type not in (SINGLE_LABEL, claimed.problem_type):
            raise VerificationError(
                f"The logits of {artifact.path} are for {claimed.problem_type}, those of the "
                f"checkpoint for {checkpoint.problem_type}. Expected the same. Export it again."
            )
    elif is_ours(artifact.metadata):
        raise ArtifactError(
            f"The metadata of {artifact.path} cannot be read. Expected it as levit-deploy writes "
            "it. Export it again."
        )


def _require_same_pictures(checkpoint: Checkpoint, artifact: Artifact, claimed: Provenance) -> None:
    own, theirs = checkpoint.preprocessing, claimed.preprocessing
    differs = not own.assumed and not checkpoint.transform.same_images(theirs)
    if artifact.interface.input == "uint8":
        differs |= not checkpoint.transform.same_normalisation(theirs)
    if differs:
        raise VerificationError(
            f'The preprocessing of {artifact.path} is "{_steps(theirs)}", the checkpoint\'s is '
            f'"{_steps(own)}". Expected the same. If the artifact is right, give --preprocessing '
            f'"{theirs}", otherwise export it again.'
        )


def _steps(preprocessing: Preprocessing) -> str:
    return preprocessing.unsupported or str(preprocessing)


def _require_same_labels(checkpoint: Checkpoint, artifact: Artifact, claimed: Provenance) -> None:
    if not (claimed.labels and checkpoint.labels):
        return
    pairs = zip_longest(claimed.labels, checkpoint.labels, fillvalue="")
    for index, (theirs, own) in enumerate(pairs):
        if theirs != own:
            raise VerificationError(
                f"{artifact.path} calls the class {index} {theirs!r}, the checkpoint calls it "
                f"{own!r}. Expected the same labels. If the artifact is right, give its own with "
                "--labels, otherwise export it again."
            )


def claimed_labels(artifact: Artifact) -> tuple[str, ...]:
    """The names of the classes in an artifact's metadata; none if they cannot be read."""
    claimed = _claimed(artifact)
    return claimed.labels if claimed else ()


def _claimed(artifact: Artifact) -> Provenance | None:
    try:
        return Provenance.from_metadata(artifact.metadata)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _float_form(checkpoint: Checkpoint, artifact: Artifact) -> bytes:
    """The float network of an int8 artifact, exported again with the options of the artifact."""
    if artifact.format != "onnx":
        raise ArtifactError(
            f"{artifact.path} claims to compute in int8, but is not an ONNX file. Expected one "
            "that levit-deploy export wrote. Export it again."
        )
    proto = onnx.load(artifact.path, load_external_data=False)
    opset = next((used.version for used in proto.opset_import if used.domain == ""), None)
    claimed = artifact.metadata.get("layout", "")
    layout = known(claimed, LAYOUTS)
    if opset not in OPSETS or layout is None:
        raise ArtifactError(
            f"{artifact.path} has the layout {claimed!r} and opset {opset}. Expected one of "
            f"{', '.join(LAYOUTS)}, and {OPSETS[0]} to {OPSETS[-1]}. Export it again."
        )
    interface = artifact.interface
    head = known(artifact.metadata.get("head"), HEADS)
    return Plan(
        checkpoint=checkpoint,
        target=ONNX,
        head="mean" if head is None or head == checkpoint.head else head,
        layout=layout,
        options=ExportOptions(opset, artifact.batch_size, interface.input, interface.output),
    ).serialize()
