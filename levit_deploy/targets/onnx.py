"""ONNX, the target that most runtimes read: written for onnxruntime, or for OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.choices import Layout, Precision
from levit_deploy.errors import UsageError
from levit_deploy.targets.onnx_ends import renamed
from levit_deploy.targets.onnx_load import load
from levit_deploy.targets.onnx_opsets import ATTENTION_OPSET, DEFAULT_OPSET, OPSETS, opset_of
from levit_deploy.targets.target import ExportOptions, Form, Int8Standard, Target, TritonBackend

if TYPE_CHECKING:
    from levit_deploy.model import LeViT
    from levit_deploy.provenance import Provenance


def _auto_layout(precision: Precision, options: ExportOptions) -> Layout:
    # Measured (docs/performance.md): at batch 1, onnxruntime runs float32 4 to 11 % faster in the
    # spatial layout, and int8 faster in tokens. The Attention operator takes tokens.
    if precision == "w8a16":
        return "spatial"  # all layers but the head are convolutions, which every NPU has
    if precision == "int8" or opset_of(options, precision) >= ATTENTION_OPSET:
        return "tokens"
    return "spatial"


def _serialize(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    from levit_deploy.targets.onnx_writer import to_onnx

    opset = opset_of(options, provenance.precision)
    if opset not in OPSETS:
        raise UsageError(
            f"--opset {opset} is not supported. Choose from {OPSETS[0]} to {OPSETS[-1]}."
        )
    proto = to_onnx(model, provenance, opset=opset, batch_size=options.fixed_batch)
    del model  # the message has a copy of its weights, and to serialise it makes another
    proto = renamed(proto, *options.names)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _standard(
    model: LeViT, provenance: Provenance, options: ExportOptions, path: Path, data: bytes
) -> Int8Standard:
    from levit_deploy.targets.onnx_int8_check import int8_standard

    return int8_standard(model, provenance, options, path, data)


def _chosen(options: ExportOptions, data: bytes) -> ExportOptions:
    from levit_deploy.targets.onnx_same import chosen

    return chosen(options, data)


def _difference(data: bytes, least: bytes, most: bytes) -> str:
    from levit_deploy.targets.onnx_same import difference

    return difference(data, least, most)


def _check_file(path: Path) -> dict[str, int]:
    from levit_deploy.targets.onnx_contract import check_contract

    return check_contract(path)


ONNX = Target(
    name="onnx",
    suffix=".onnx",
    runtime="onnxruntime",
    precisions=("fp32", "fp16", "int8", "w8a16"),
    forms=(
        Form("tokens", "tokens"),
        Form("tokens, opset 23", "tokens", options=ExportOptions(opset=ATTENTION_OPSET)),
        Form("spatial", "spatial"),
        Form("fp16", "spatial", "fp16"),
        Form("int8, opset 17", "tokens", "int8", ExportOptions(opset=DEFAULT_OPSET)),
        Form("int8, opset 23", "tokens", "int8", ExportOptions(opset=ATTENTION_OPSET)),
    ),
    auto_layout=_auto_layout,
    fixes_batch=True,
    has_opsets=True,
    has_names=True,
    serialize=_serialize,
    standard=_standard,
    libraries=("onnx",),
    chosen=_chosen,
    difference=_difference,
    check_file=_check_file,
    recognises=lambda start: start[:1] == b"\x08",  # the field that protobuf writes first
    load=load,
    runtime_modules=("onnx", "onnxruntime"),
    triton=TritonBackend("onnxruntime_onnx", "model.onnx"),
)

# Measured (docs/performance.md): OpenVINO runs tokens faster than spatial, and a fixed batch 1.06
# to 1.27 times as fast as a dynamic one.
ONNX_FOR_OPENVINO = replace(
    ONNX,
    runtime="openvino",
    auto_layout=lambda _precision, _options: "tokens",
    precisions=("fp32", "fp16", "int8"),
    forms=(
        Form("tokens", "tokens"),
        Form("spatial", "spatial"),
        Form("int8 for OpenVINO", "tokens", "int8", ExportOptions(opset=DEFAULT_OPSET)),
    ),
    batch_size=1,
    runtime_modules=("onnx", "levit_deploy.runtime.compiled"),
    triton=None,
)
