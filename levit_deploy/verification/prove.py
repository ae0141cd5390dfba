"""Prove an artifact against its checkpoint, by the head and precision in its metadata."""

import logging
from dataclasses import replace

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import ROUNDED, Precision
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.pictures.split import Judging
from levit_deploy.provenance import claimed_precision, is_ours
from levit_deploy.runtime.artifact import Artifact, read_artifact
from levit_deploy.targets.plan import Plan
from levit_deploy.targets.target import Int8Standard
from levit_deploy.verification.exported_again import plan_of
from levit_deploy.verification.inputs import Case
from levit_deploy.verification.int8 import measure_int8
from levit_deploy.verification.measure import measure
from levit_deploy.verification.original import Originals
from levit_deploy.verification.result import Verification
from levit_deploy.verification.same_pictures_and_labels import require_same_pictures_and_labels

log = logging.getLogger(__name__)


def prove(
    checkpoint: Checkpoint,
    artifact: Artifact,
    *,
    extra: tuple[Case, ...] = (),
    pictures: Judging | None = None,
    max_drop: float | None = None,
    confident: bool = False,
    originals: Originals | None = None,
) -> Verification:
    """Measure an artifact against the checkpoint, in the precision that its metadata names.

    A file that is not ours gives what the checkpoint does, features if it has no head. Several
    proofs may share ``originals``, so that later ones only run their artifacts. The rest is as for
    ``measure`` and ``measure_int8``. Raises ArtifactError if it names no known head or precision,
    VerificationError if it names another use than the checkpoint does, or is not its network,
    rounded, and UsageError if there are no pictures to judge a rounded one by.
    """
    if checkpoint.config.headless and not is_ours(artifact.metadata):
        artifact = replace(artifact, metadata={**artifact.metadata, "output": "features"})
    original = (originals or Originals()).of(checkpoint, artifact)
    precision = _precision(artifact)
    require_same_pictures_and_labels(checkpoint, artifact)
    log.info(
        "proving %s: %s, %s, %s head", artifact.path, artifact.format, precision, original.head
    )
    if precision in ROUNDED and not artifact.interface.has_classes:
        raise ArtifactError(
            f"{artifact.path} claims to give {artifact.interface.output} in {precision}, which "
            "nothing here can judge. Expected an artifact that levit-deploy wrote. Export it again."
        )
    if precision in ROUNDED:
        plan = _plan_of_rounded(checkpoint, artifact, precision)
        if pictures is None:
            raise UsageError(
                f"{artifact.path} computes in {precision}, and its accuracy shows on pictures "
                "only. Give a folder of pictures with --images."
            )
        verification = measure_int8(
            original,
            artifact,
            _standard(plan, artifact),
            precision=precision,
            pictures=pictures,
            max_drop=max_drop,
            confident=confident,
            extra=extra,
        )
    else:
        verification = measure(original, artifact, precision=precision, extra=extra)
    return replace(verification, proven_if=checkpoint.proven_if)


def _precision(artifact: Artifact) -> Precision:
    try:
        return claimed_precision(artifact.metadata)
    except ValueError as error:
        raise ArtifactError(
            f"{artifact.path} cannot be held to a budget: {error}. A later version of this tool "
            "may have written it. Upgrade, or export it again."
        ) from error


def _plan_of_rounded(checkpoint: Checkpoint, artifact: Artifact, precision: Precision) -> Plan:
    """The plan of a rounded artifact; ArtifactError if files of its format do not round so."""
    plan = plan_of(checkpoint, artifact, precision)
    if precision not in plan.target.precisions:
        raise ArtifactError(
            f"{artifact.path} claims to compute in {precision}, which no {artifact.format} file of "
            "this tool does. Expected one that levit-deploy export wrote. Export it again."
        )
    return plan


def _standard(plan: Plan, artifact: Artifact) -> Int8Standard:
    """The standard for a rounded artifact, made again with its options."""
    assert plan.target.standard is not None  # as for every target with a rounded precision
    data = read_artifact(artifact.path)
    return plan.target.standard(plan.network(), plan.provenance, plan.options, artifact.path, data)
