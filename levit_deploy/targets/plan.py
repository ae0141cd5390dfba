"""Plan an artifact: your choices, checked against the checkpoint and the target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import (
    HEADS,
    LAYOUTS,
    PRECISIONS,
    ROUNDED,
    Head,
    Layout,
    LayoutChoice,
    Precision,
    require_one_of,
)
from levit_deploy.errors import UsageError
from levit_deploy.interface import Interface, why_no_softmax
from levit_deploy.layout import to_spatial
from levit_deploy.memory import give_back
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.formats import TARGETS, require_precision
from levit_deploy.targets.onnx_ends import require_names
from levit_deploy.targets.onnx_opsets import CHANNEL_SCALES_OPSET, OPSETS, SIXTEEN_BITS_OPSET
from levit_deploy.targets.pt2 import PT2
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
            head=self._head,
            layout=self.layout,
            weights=checkpoint.weights,
            assumed=checkpoint.assumed,
            proven_if=checkpoint.proven_if,
            reading=checkpoint.reading,
            passed_over=checkpoint.passed_over,
            preprocessing=checkpoint.preprocessing,
            precision=self.precision,
            runtime=self.target.runtime,
            interface=self.interface,
            labels=checkpoint.labels if self.interface.has_classes else (),
            problem_type=checkpoint.problem_type,
            processor=self.target.processor,
            written_with=self.target.written_with,
        )

    @property
    def _head(self) -> str:
        """The checkpoint's own head, unless one of two was chosen, or none is needed."""
        if not self.interface.has_classes:
            return "none"
        return self.checkpoint.head if self.head == "mean" else self.head

    def network(self, moved: float = 0.0) -> LeViT:
        """Return the plain network in the layout; ``moved`` is as for ``to_plain``."""
        network = to_plain(self.checkpoint.model, self.head, self.interface.output, moved)
        network = to_spatial(network) if self.layout == "spatial" else network
        give_back()  # what the passes took in float64
        return network

    def serialize(self) -> bytes:
        """Return the artifact, unless that needs pictures."""
        return self.target.serialize(self.network(), self.provenance, self.options)

    def in_float(self) -> Plan:
        """Return the float32 artifact of this form."""
        return replace(self, precision="fp32")

    def fastest_in_float(self) -> Plan:
        """Return the fastest float32 artifact with this input and output."""
        options = replace(self.options, opset=None, input_name=None, output_name=None)
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
    if options.batch_size is None:  # NPUs are compiled for one
        batch = 1 if precision == "w8a16" else target.batch_size
        options = replace(options, batch_size=batch)
    require_one_of("precision", precision, PRECISIONS)
    require_precision(target, precision)  # which the layout depends on
    require_one_of("layout", layout, ("auto", *LAYOUTS))
    plan = Plan(
        checkpoint=checkpoint,
        target=target,
        head=require_one_of("head", head, HEADS),
        layout=target.auto_layout(precision, options) if layout == "auto" else layout,
        precision=precision,
        options=options,
    )
    require_possible(plan)
    return plan


def require_possible(plan: Plan) -> None:
    """Raise UsageError for a choice that the checkpoint or the target does not have."""
    require_precision(plan.target, plan.precision)
    _require_options(plan)
    _require_batch(plan)
    _require_output(plan)
    _require_names(plan)
    _require_opset(plan)


def _require_options(plan: Plan) -> None:
    """Raise UsageError for an option that this target does not have."""
    target, options = plan.target, plan.options
    for option, is_given, has in (
        ("--opset", options.opset is not None, lambda target: target.has_opsets),
        ("--batch-size", options.fixed_batch is not None, lambda target: target.fixes_batch),
        ("--input-name", options.input_name is not None, lambda target: target.has_names),
        ("--output-name", options.output_name is not None, lambda target: target.has_names),
        ("--compile", options.compile, lambda target: target.name == PT2.name),
        (f"--layout {plan.layout}", True, lambda target: plan.layout in target.layouts),
    ):
        if is_given and not has(target):
            others = [name for name, other in TARGETS.items() if has(other)]
            raise UsageError(
                f"{option} is not for --format {target.name}, but for {' and '.join(others)}. "
                "Leave the option out, or choose another --format."
            )


def _require_batch(plan: Plan) -> None:
    """Raise UsageError if no file of the target takes such batches."""
    batch = plan.options.batch_size
    if isinstance(batch, int) and batch < 1:
        raise UsageError(f"--batch-size {batch} is not a positive number of images.")
    if batch == "dynamic" and not plan.target.dynamic_batch:
        raise UsageError(
            f"--batch-size dynamic is not for --format {plan.target.name}, whose files take "
            "batches of one size. Give a number, or leave the option out for "
            f"{plan.target.batch_size}."
        )


def _require_opset(plan: Plan) -> None:
    """Raise UsageError if the operator set chosen cannot round as the precision does."""
    least, reason = {
        "int8": (CHANNEL_SCALES_OPSET, "Its weights have a scale for each channel"),
        "w8a16": (SIXTEEN_BITS_OPSET, "It rounds to 16 bits"),
    }.get(plan.precision, (OPSETS[0], ""))
    opset = plan.options.opset or least
    if OPSETS[0] <= opset < least:
        raise UsageError(
            f"--opset {opset} is not for {plan.precision}. {reason}, which ONNX knows from opset "
            f"{least}. Choose that or a later one."
        )


def _require_names(plan: Plan) -> None:
    """Raise UsageError if the input or output cannot have the name chosen for it."""
    interface, options = plan.interface, plan.options
    if interface.output == "feature-maps" and options.output_name is not None:
        raise UsageError(
            "--output-name is for one output, and --output-type feature-maps has one for each "
            "stage, stage1, stage2 and so on. Leave --output-name out."
        )
    require_names(options.names, (interface.input_name, interface.output))


def _require_output(plan: Plan) -> None:
    """Raise UsageError if the checkpoint, or the other choices, allow no such output."""
    checkpoint, output = plan.checkpoint, plan.interface.output
    if not plan.interface.has_classes:
        if plan.head != "mean":
            raise UsageError(
                f"--head {plan.head} chooses between logits, and --output-type {output} comes "
                "before the heads. Leave one of the two out."
            )
        if plan.precision in ROUNDED:
            raise UsageError(
                f"{plan.precision} is judged by its answers to pictures, and {output} answer "
                "nothing. So nothing would tell whether it is good enough. Choose another "
                "--precision."
            )
        return
    if checkpoint.config.headless:
        raise UsageError(
            f"{checkpoint.path} is a network without a head, so it has no {output}. Give "
            "--output-type features for its pooled vector, or feature-maps for a map of each stage."
        )
    reason = why_no_softmax(checkpoint.problem_type, checkpoint.config.num_classes)
    if output == "probabilities" and reason:
        raise UsageError(
            f"--output-type probabilities is the softmax of the logits, and {reason}. Leave the "
            "option out and apply the network's own output function to the logits."
        )
