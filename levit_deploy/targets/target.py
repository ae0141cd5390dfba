"""From a plain model to a file: one exporter a format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from levit_deploy.choices import Layout, Precision
from levit_deploy.errors import UsageError
from levit_deploy.interface import Interface
from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_attention import ATTENTION_OPSET
from levit_deploy.targets.onnx_contract import check_contract
from levit_deploy.targets.onnx_writer import DEFAULT_OPSET, OPSETS, to_onnx
from levit_deploy.targets.torchscript import to_torchscript


@dataclass(frozen=True)
class ExportOptions:
    """What the user may choose; None leaves it to the exporter.

    ``input`` 'uint8' builds the normalisation in, ``output`` 'probabilities' the softmax.
    """

    opset: int | None = None
    batch_size: int | None = None
    input: str = "float32"
    output: str = "logits"

    def interface(self) -> Interface:
        """Raise UsageError where there is no such input or output."""
        try:
            return Interface.from_metadata({"input": self.input, "output": self.output})
        except ValueError as error:
            raise UsageError(f"Nothing can be exported so: {error}.") from error


@dataclass(frozen=True)
class Exporter:
    """A target.

    ``auto_layout`` names the layout measured to be fastest for the options; ``serialize`` makes
    the bytes of a plain model in either layout, with the provenance's interface; ``check_file``
    returns what a written file is like, and raises VerificationError where it breaks the format's
    contract; ``runtime_modules`` are what running it imports; ``precisions`` are those it can be
    written in.
    """

    suffix: str
    auto_layout: Callable[[ExportOptions], Layout]
    serialize: Callable[[LeViT, Provenance, ExportOptions], bytes]
    check_file: Callable[[Path], dict[str, int]]
    runtime_modules: tuple[str, ...]
    precisions: tuple[Precision, ...]


def _onnx_layout(options: ExportOptions) -> Layout:
    # onnxruntime runs the spatial layout 3 to 9 % faster; with the Attention operator, which takes
    # tokens, they are level (docs/performance.md).
    return "tokens" if _opset(options) >= ATTENTION_OPSET else "spatial"


def _opset(options: ExportOptions) -> int:
    return DEFAULT_OPSET if options.opset is None else options.opset


def _onnx_bytes(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    opset = _opset(options)
    if opset not in OPSETS:
        raise UsageError(
            f"--opset {opset} is not supported. Choose from {OPSETS[0]} to {OPSETS[-1]}."
        )
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size} is not a positive number of images.")
    proto = to_onnx(model, provenance, opset=opset, batch_size=options.batch_size)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _torchscript_bytes(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    if options.opset is not None or options.batch_size is not None:
        raise UsageError(
            "--opset and --batch-size are ONNX's: a TorchScript program has no operator set to "
            "choose and takes any batch. Leave them out."
        )
    return to_torchscript(model, provenance)


EXPORTERS = {
    "onnx": Exporter(
        ".onnx",
        _onnx_layout,
        _onnx_bytes,
        check_contract,
        ("onnx", "onnxruntime"),
        ("fp32", "fp16", "int8"),
    ),
    "torchscript": Exporter(
        ".torchscript.pt",
        lambda _options: "tokens",
        _torchscript_bytes,
        lambda _path: {},
        ("torch",),
        ("fp32", "bf16"),
    ),
}
