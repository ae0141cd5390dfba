"""Plan an artifact: your choices, checked against the checkpoint and the target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import (
    HEADS,
    LAYOUTS,
    PRECISIONS,
    Head,
    Layout,
    LayoutChoice,
    Precision,
    require_one_of,
)
from levit_deploy.errors import UsageError
from levit_deploy.interface import Interface, why_no_softmax
from levit_deploy.layout import to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.formats import require_precision
from levit_deploy.targets.target import ExportOptions, Target


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An artifact that is to be made of a checkpoint."""

    checkpoint: Checkpoint
    target: Target
    head: Head
    layout: Layout
    precision: Precision = "fp32"
    options: ExportOptions = field(default_factory=ExportOptions)

    @property
    def interface(self) -> Interface:
        """The artifact's input and output."""
        return self.options.interface()

    @property
    def provenance(self) -> Provenance:
        """The strings that go into the artifact."""
        checkpoint = self.checkpoint
        return Provenance(
            checkpoint_sha256=checkpoint.sha256,
            config=checkpoint.config,
            # the checkpoint's own head, unless one of two was chosen
            head=checkpoint.head if self.head == "mean" else self.head,
            layout=self.layout,
            weights=checkpoint.weights,
            assumed=checkpoint.assumed,
            proven_if=checkpoint.proven_if,
            preprocessing=checkpoint.preprocessing,
            precision=self.precision,
            interface=self.interface,
            labels=checkpoint.labels,
            problem_type=checkpoint.problem_type,
        )

    def network(self) -> LeViT:
        """Return the plain network in the layout."""
        network = to_plain(self.checkpoint.model, self.head)
        return to_spatial(network) if self.layout == "spatial" else network

    def serialize(self) -> bytes:
        """Return the artifact, unless that needs pictures."""
        return self.target.serialize(self.network(), self.provenance, self.options)

    def in_float(self) -> Plan:
        """Return the same in float32: an int8 artifact is its rounding."""
        return replace(self, precision="fp32")

    def fastest_in_float(self) -> Plan:
        """Return the fastest float32 artifact with this input and output."""
        options = replace(self.options, opset=None)
        layout = self.target.auto_layout("fp32", options)
        return replace(self, precision="fp32", options=options, layout=layout)


def planned(
    checkpoint: Checkpoint,
    target: Target,
    *,
    head: Head,
    layout: LayoutChoice,
    precision: Precision,
    options: ExportOptions | None,
) -> Plan:
    """Check every choice; raise UsageError for one that this checkpoint or target does not have."""
    options = options or ExportOptions()
    require_one_of("precision", precision, PRECISIONS)
    require_precision(target, precision)
    require_one_of("layout", layout, ("auto", *LAYOUTS))
    plan = Plan(
        checkpoint=checkpoint,
        target=target,
        head=require_one_of("head", head, HEADS),
        layout=target.auto_layout(precision, options) if layout == "auto" else layout,
        precision=precision,
        options=options,
    )
    if checkpoint.config.headless:
        raise UsageError(
            f"{checkpoint.path} is a network without a head, so it has no "
            f"{plan.interface.output}. Give --output-type features for its pooled vector."
        )
    reason = why_no_softmax(checkpoint.problem_type, checkpoint.config.num_classes)
    if plan.interface.output == "probabilities" and reason:
        raise UsageError(
            f"--output-type probabilities is the softmax of the logits, and {reason}. Leave the "
            "option out and apply the network's own output function to the logits."
        )
    return plan
