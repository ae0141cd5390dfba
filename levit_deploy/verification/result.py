"""The evidence that a proof leaves."""

from __future__ import annotations

from dataclasses import dataclass

from levit_deploy.choices import ROUNDED, Precision
from levit_deploy.errors import VerificationError
from levit_deploy.interface import DEFAULT, Interface
from levit_deploy.text import counted
from levit_deploy.verification.accuracy import Accuracy
from levit_deploy.verification.batches import BatchResult
from levit_deploy.verification.compare import CaseResult
from levit_deploy.verification.exported_again import GraphComparison
from levit_deploy.verification.parting import BlockResult, Parting


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The evidence: the figures of every kind of input, and the network they are of.

    ``format``, ``runtime`` and ``sha256`` are the artifact's. ``precision`` is the one in its
    metadata, whose budget it was held to, and ``head`` is the head of its logits: 'mean', 'class'
    or 'distill', or 'none' for features. ``interface`` is its input and output: the figures are of
    logits, of the logarithms of probabilities, of features, or of each feature map. ``blocks`` has
    the error of each block on the input that it gets, if the values inside can be seen.
    ``parting`` is the first block that is wrong, as far as it can be told; one is a failure by
    itself. For int8, ``unrounded`` is the proof of the float network that was rounded, and
    ``accuracy`` the cost of rounding. ``proven_if`` has the facts that the reading of the
    checkpoint rests on. ``remarks`` are sentences about an artifact of another tool. ``graph``
    compares the file with what is exported again, if that was asked for.
    """

    format: str
    runtime: str
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
    proven_if: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    graph: GraphComparison | None = None

    @property
    def verdict(self) -> str:
        """'proven' with its conditions and the accuracy of int8, or 'not proven'."""
        if not self.passed:
            return "not proven"
        words = f"proven, if {' and '.join(self.proven_if)}" if self.proven_if else "proven"
        if self.accuracy is None:
            return words
        if not self.accuracy.shown:
            words += ", but on too few pictures to be sure of its accuracy"
        return f"{words}: {self.accuracy.summary}"

    @property
    def passed(self) -> bool:
        """Whether all inputs, batches and blocks are within budget, and the file not changed."""
        return not self.failures

    def raise_if_failed(self, advice: str = "") -> None:
        """Raise VerificationError with each failure, its size, and the block where it begins."""
        if not self.failures:
            return
        if self.graph is not None and not self._failures:
            raise VerificationError(self.graph.refusal, evidence=self)
        if self.accuracy is not None and self.accuracy.too_few_pictures and len(self.failures) == 1:
            raise VerificationError(
                f"The artifact is not shown to be as accurate as --confident asks. On "
                f"{self.failures[0]}. Give more pictures with --images, a larger --max-drop, or "
                "leave --confident out.",
                evidence=self,
            )
        place = str(self.parting or "No block can be named as the first to part.")
        if self.precision in ROUNDED:
            place = "Run levit-deploy export to see which blocks cost most."
        words = " ".join(filter(None, (place, *self.remarks, advice)))
        raise VerificationError(
            "The artifact computes another function than the checkpoint. On "
            f"{'; on '.join(self.failures)}. {words} Do not ship it.",
            evidence=self,
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """Each failure, with its inputs and figures; empty if there is none."""
        if self.graph is None or self.graph.same is not False:
            return self._failures
        return *self._failures, f"comparison with the file exported again: {self.graph}"

    @property
    def _failures(self) -> tuple[str, ...]:
        """Those that inputs show."""
        parts: list[tuple[str, tuple[str, ...]]] = [(c.name, c.failures) for c in self.cases]
        parts += [(f"batches of {batch.size}", batch.failures) for batch in self.batches]
        if self.accuracy is not None:
            parts.append((counted(self.accuracy.pictures, "picture"), self.accuracy.failures))
        failed = [f"{name}: {', '.join(failures)}" for name, failures in parts if failures]
        if self.parting is not None and not failed:
            failed.append(
                f"{self.parting.block} alone: {self.parting.share:.3g} times the error allowed"
            )
        if self.unrounded is not None:
            failed += [f"{failure}, in float32 already" for failure in self.unrounded.failures]
        return tuple(failed)
