"""What is made of a checkpoint: its plain network in a layout, and where that comes from."""

from __future__ import annotations

from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import Head, Layout, Precision
from levit_deploy.interface import DEFAULT, Interface
from levit_deploy.layout import to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.target import EXPORTERS, ExportOptions


def plain_form(checkpoint: Checkpoint, head: Head, layout: Layout) -> LeViT:
    """The plain model, in a layout."""
    model = to_plain(checkpoint.model, head)
    return to_spatial(model) if layout == "spatial" else model


def plain_onnx(checkpoint: Checkpoint, head: Head, layout: Layout, options: ExportOptions) -> bytes:
    """The float32 network as ONNX, which an int8 one is the rounding of."""
    provenance = provenance_of(checkpoint, head, layout, interface=options.interface())
    return EXPORTERS["onnx"].serialize(plain_form(checkpoint, head, layout), provenance, options)


def provenance_of(
    checkpoint: Checkpoint,
    head: Head,
    layout: Layout,
    precision: Precision = "fp32",
    interface: Interface = DEFAULT,
) -> Provenance:
    """Where a file comes from; the head is the checkpoint's own unless one of two was chosen."""
    return Provenance(
        checkpoint_sha256=checkpoint.sha256,
        config=checkpoint.config,
        head=checkpoint.head if head == "mean" else head,
        layout=layout,
        weights=checkpoint.weights,
        assumed=checkpoint.assumed,
        preprocessing=checkpoint.preprocessing,
        precision=precision,
        interface=interface,
        labels=checkpoint.labels,
        problem_type=checkpoint.problem_type,
    )
