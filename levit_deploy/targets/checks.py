"""What export and its like are asked for, checked before anything is done."""

from __future__ import annotations

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import PRECISIONS, Precision, require_one_of
from levit_deploy.errors import UsageError
from levit_deploy.interface import Interface, why_no_softmax
from levit_deploy.targets.target import EXPORTERS, ExportOptions


def precision_of(name: str, format: str) -> Precision:
    """The precision of that name, which the format has to know."""
    require_one_of("precision", name, PRECISIONS)
    known = EXPORTERS[format].precisions
    for precision in known:
        if precision == name:
            return precision
    others = [other for other, exporter in EXPORTERS.items() if name in exporter.precisions]
    raise UsageError(
        f"--precision {name} is not for --format {format}, which computes in {' or '.join(known)}. "
        f"Choose one of these, or --format {' or '.join(others)}."
    )


def interface_of(checkpoint: Checkpoint, options: ExportOptions) -> Interface:
    """What the artifact takes and gives; UsageError for probabilities that would be none."""
    interface = options.interface()
    reason = why_no_softmax(checkpoint.problem_type, checkpoint.config.num_classes)
    if interface.output == "probabilities" and reason:
        raise UsageError(
            f"--output-type probabilities is the softmax of the logits, and {reason}. Leave the "
            "option out, and make of the logits what the network was trained for."
        )
    return interface
