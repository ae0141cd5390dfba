"""The evidence that a proof leaves."""

from __future__ import annotations

from dataclasses import dataclass

from levit_deploy.choices import Precision
from levit_deploy.errors import VerificationError
from levit_deploy.interface import DEFAULT, Interface
from levit_deploy.verification.accuracy import Accuracy
from levit_deploy.verification.batches import BatchResult
from levit_deploy.verification.compare import CaseResult
from levit_deploy.verification.parting import BlockResult, Parting


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The evidence: the figures of every kind of input, and what was compared.

    ``format`` and ``sha256`` are the artifact's; ``precision`` is what it says that it computes in,
    whose budget it was held to; ``head`` says which head's logits, 'mean', 'class' or 'distill'.
    ``interface`` says what it takes and gives: the figures are of logits, or of the logarithms of
    probabilities. ``parting`` is where a wrong artifact goes wrong, as far as that can be told, and
    ``blocks`` how far it is off at each, on the image that shows it most; those of a right one, on
    normal noise, are there where they were asked for. For int8, ``unrounded`` is the proof of the
    float network that was rounded, and ``accuracy`` what rounding costs.
    """

    format: str
    sha256: str
    precision: Precision
    head: str
    seed: int
    cases: tuple[CaseResult, ...]
    batches: tuple[BatchResult, ...]
    parting: Parting | None = None
    blocks: tuple[BlockResult, ...] = ()
    unrounded: Verification | None = None
    accuracy: Accuracy | None = None
    interface: Interface = DEFAULT

    @property
    def passed(self) -> bool:
        """Whether every kind of input and every batch is within its budget."""
        return not self.failures

    def raise_if_failed(self) -> None:
        """Raise VerificationError, saying what failed, by how much, and where it begins."""
        if not self.failures:
            return
        where = str(self.parting or "No block can be named as the first to part.")
        if self.precision == "int8":
            where = "Which blocks cost most, export tells."
        raise VerificationError(
            "The artifact does not compute what the checkpoint computes. On "
            f"{'; on '.join(self.failures)}. {where} Do not ship it.",
            evidence=self,
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """On what it failed, and how, in words with figures; empty where nothing did."""
        parts: list[tuple[str, tuple[str, ...]]] = [(c.name, c.failures) for c in self.cases]
        parts += [(f"batches of {batch.size}", batch.failures) for batch in self.batches]
        if self.accuracy is not None:
            parts.append((f"{self.accuracy.pictures} pictures", self.accuracy.failures))
        failed = [f"{name}: {', '.join(failures)}" for name, failures in parts if failures]
        if self.unrounded is not None:
            failed += [f"{words}, in float32 already" for words in self.unrounded.failures]
        return tuple(failed)
