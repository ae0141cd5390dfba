"""Does an artifact compute the same function as its original?"""

from __future__ import annotations

from dataclasses import dataclass

from levit_deploy.config import LeViTConfig
from levit_deploy.errors import VerificationError
from levit_deploy.model import LeViT
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.verification.compare import CaseResult, Reference, compare_case
from levit_deploy.verification.inputs import Case, image_case, standard_cases

__all__ = ["Case", "CaseResult", "Verification", "image_case", "measure"]


@dataclass(frozen=True)
class Verification:
    """The evidence: the figures of every kind of input, and what was compared.

    ``format`` and ``sha256`` are the artifact's; ``head`` says which head's logits it was held to,
    'mean', 'class' or 'distill'.
    """

    format: str
    sha256: str
    head: str
    seed: int
    cases: tuple[CaseResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every kind of input is within its budget."""
        return not any(case.failures for case in self.cases)

    def raise_if_failed(self) -> None:
        """Raise VerificationError, saying which inputs failed and by how much."""
        failed = [
            f"{case.name}: {', '.join(case.failures)}" for case in self.cases if case.failures
        ]
        if failed:
            raise VerificationError(
                "The artifact does not compute what the checkpoint computes. On "
                f"{'; on '.join(failed)}. Do not ship it.",
                evidence=self,
            )


def measure(
    model: LeViT,
    config: LeViTConfig,
    artifact: Artifact,
    *,
    head: str = "mean",
    extra: tuple[Case, ...] = (),
    seed: int = 0,
) -> Verification:
    """Compare an artifact with its original on the standard inputs and any extra ones.

    ``model`` is the original, float32 and in evaluation mode, with the ``head`` the artifact is
    held to; the reference is the same in float64. Returns the figures whatever they are; raises
    VerificationError where the artifact takes other images or gives other classes, BackendError
    where it cannot run.
    """
    expected = (config.in_channels, *config.image_size)
    if artifact.image_shape != expected:
        raise VerificationError(
            f"{artifact.path} takes images of shape {artifact.image_shape}, the checkpoint takes "
            f"{expected} (channels, height, width). It was made from another network, or with "
            "another --image-size, which verify has to be given as well."
        )
    reference = Reference(model)
    cases = (*standard_cases(config, seed), *extra)
    results = [compare_case(case, reference, artifact.run, artifact.batch_size) for case in cases]
    return Verification(artifact.format, artifact.sha256, head, seed, tuple(results))
