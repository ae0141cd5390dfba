"""Hold an artifact to the checkpoint: the head, precision, input and output that it says it has."""

from __future__ import annotations

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
from levit_deploy.targets.onnx_writer import OPSETS
from levit_deploy.targets.plain import plain_onnx
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

    The rest is as for ``measure`` and ``measure_int8``. Raises ArtifactError if the metadata cannot
    be measured by, VerificationError if they name other pictures or classes than the checkpoint.
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
    """Raise VerificationError where an artifact says other things of its use than the checkpoint.

    These are how pictures become inputs, the names of the classes, and what the logits mean. What
    the checkpoint does not state is not compared, but for the normalisation of bytes: without it
    the proof would fail, and not say why. Raises ArtifactError for a file of ours that says them in
    words that cannot be read, by which somebody else may go; one that is not ours says nothing.
    """
    claimed = _claimed(artifact)
    if claimed is None:
        if is_ours(artifact.metadata):
            raise ArtifactError(
                f"{artifact.path} says in its metadata what cannot be read of where it comes from. "
                "Expected them as levit-deploy writes them. Export it again."
            )
        return
    own, theirs = checkpoint.preprocessing, claimed.preprocessing
    differs = not own.assumed and not checkpoint.transform.same_images(theirs)
    if artifact.interface.input == "uint8":
        differs |= not checkpoint.transform.same_normalisation(theirs)
    if differs:
        raise VerificationError(
            f"{artifact.path} says that pictures are prepared for it by {_said(theirs)}, where it "
            f"is {_said(own)} for the checkpoint. Expected the same. If the artifact is right, "
            f'give --preprocessing "{theirs}", else export it again.'
        )
    if claimed.labels and checkpoint.labels:
        pairs = zip_longest(claimed.labels, checkpoint.labels, fillvalue="")
        for index, (label, own_label) in enumerate(pairs):
            if label != own_label:
                raise VerificationError(
                    f"{artifact.path} calls the class {index} {label!r}, which the checkpoint "
                    f"calls {own_label!r}. Expected the same labels. If the artifact is right, "
                    "give its own with --labels, else export it again."
                )
    if checkpoint.problem_type not in (SINGLE_LABEL, claimed.problem_type):
        raise VerificationError(
            f"{artifact.path} says that its logits are for {claimed.problem_type}, where those of "
            f"the checkpoint are for {checkpoint.problem_type}. Export it again."
        )


def claimed_labels(artifact: Artifact) -> tuple[str, ...]:
    """The names of the classes that an artifact states; none where they cannot be read."""
    claimed = _claimed(artifact)
    return claimed.labels if claimed else ()


def _claimed(artifact: Artifact) -> Provenance | None:
    try:
        return Provenance.from_metadata(artifact.metadata)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _said(preprocessing: Preprocessing) -> str:
    return preprocessing.unsupported or str(preprocessing)


def _float_form(checkpoint: Checkpoint, artifact: Artifact) -> bytes:
    """What an int8 artifact must be the rounding of, exported as the artifact says it was."""
    if artifact.format != "onnx":
        raise ArtifactError(
            f"{artifact.path} says that it computes in int8, and is no ONNX file. Expected one "
            "that levit-deploy export wrote."
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
    options = ExportOptions(opset, artifact.batch_size, interface.input, interface.output)
    head = known(artifact.metadata.get("head"), HEADS)
    own = head is None or head == checkpoint.head
    return plain_onnx(checkpoint, "mean" if own or head is None else head, layout, options)
