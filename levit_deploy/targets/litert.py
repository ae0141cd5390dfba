"""LiteRT, formerly TensorFlow Lite: the target for Android, and for Linux on small machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.extras import require_extra
from levit_deploy.regular_files import read_regular
from levit_deploy.targets.litert_load import load
from levit_deploy.targets.target import ExportOptions, Form, Int8Standard, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from levit_deploy.arrays import Images
    from levit_deploy.model import LeViT
    from levit_deploy.provenance import Provenance

BATCH_SIZE = 1


def _written(
    model: LeViT, provenance: Provenance, options: ExportOptions
) -> Callable[[Provenance], bytes]:
    require_extra("litert", ("ai_edge_litert",), "The format litert")
    from levit_deploy.targets.litert_writer import to_litert

    return to_litert(model, provenance, options.fixed_batch or BATCH_SIZE, *options.names)


def _serialize(model: LeViT, provenance: Provenance, options: ExportOptions) -> bytes:
    return _written(model, provenance, options)(provenance)


def _rounded(
    model: LeViT, provenance: Provenance, options: ExportOptions, images: Images
) -> Callable[[Provenance], bytes]:
    return _written(model, provenance, options)


def _standard(
    model: LeViT, provenance: Provenance, options: ExportOptions, path: Path, data: bytes
) -> Int8Standard:
    from levit_deploy.targets.litert_int8_check import check_rounding

    unrounded = _serialize(model, replace(provenance, precision="fp32"), options)
    check_rounding(path, data, unrounded, _serialize(model, provenance, options))
    return Int8Standard(unrounded=unrounded)


def _chosen(options: ExportOptions, data: bytes) -> ExportOptions:
    from levit_deploy.targets.litert_same import chosen

    return chosen(options, data)


def _difference(data: bytes, least: bytes, most: bytes) -> str:
    from levit_deploy.targets.litert_same import difference

    return difference(data, least, most)


def _check_file(path: Path) -> dict[str, int]:
    from levit_deploy.targets.litert_file import kinds, read_model

    return {"operators": len(kinds(read_model(path, read_regular(path))))}


LITERT = Target(
    name="litert",
    suffix=".tflite",
    runtime="LiteRT",
    precisions=("fp32", "int8-dynamic"),
    forms=(
        Form("tokens", "tokens"),
        Form("int8-dynamic", "tokens", "int8-dynamic"),
    ),
    auto_layout=lambda _precision, _options: "tokens",
    batch_size=BATCH_SIZE,
    dynamic_batch=False,
    fixes_batch=True,
    has_names=True,
    layouts=("tokens",),  # maps have their channels last, so that both are the same numbers
    serialize=_serialize,
    rounded=_rounded,
    standard=_standard,
    chosen=_chosen,
    difference=_difference,
    check_file=_check_file,
    recognises=lambda start: start[4:8] == b"TFL3",  # the identifier of the flatbuffer's schema
    load=load,
    runtime_modules=("ai_edge_litert.interpreter",),
)
