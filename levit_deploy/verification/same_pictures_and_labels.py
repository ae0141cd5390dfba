"""Refuse an artifact that states other pictures, labels or logits than its checkpoint."""

from itertools import zip_longest

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.errors import ArtifactError, VerificationError
from levit_deploy.interface import SINGLE_LABEL
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.provenance import Provenance, is_ours
from levit_deploy.runtime.artifact import Artifact


def require_same_pictures_and_labels(checkpoint: Checkpoint, artifact: Artifact) -> None:
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
