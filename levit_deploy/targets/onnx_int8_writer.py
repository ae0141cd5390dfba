"""Write the int8 form of a plain model as ONNX: rounded, or in float to see its ranges."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_every_value import EveryValueBuilder
from levit_deploy.targets.onnx_int8 import INT8_EMITTERS, folded_std, pixels_on_bytes
from levit_deploy.targets.onnx_int8_graph import Int8Builder
from levit_deploy.targets.onnx_int8_openvino import OPENVINO_EMITTERS
from levit_deploy.targets.onnx_opsets import DEFAULT_OPSET, opset_of
from levit_deploy.targets.onnx_proto import to_proto
from levit_deploy.targets.onnx_rounding import Rounding
from levit_deploy.targets.onnx_schemes import FOR_OPENVINO, ON_BYTES, W8A16, Scheme
from levit_deploy.targets.onnx_writer import FLOAT_EMITTERS, built
from levit_deploy.targets.target import ExportOptions


@dataclass(frozen=True)
class Places:
    """The names of what can be rounded.

    ``points`` are values of the unrounded form, whose ranges a ``Rounding`` needs. ``parts`` are
    the layers that can stay float, and those of attention, in the order of the network.
    """

    points: tuple[str, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Int8Form:
    """The int8 form of a plain model in either layout, to be written again and again.

    ``opset`` is the operator set, and ``batch_size`` None leaves the batch dynamic. ``scheme``
    tells what is rounded, and to which numbers.
    """

    model: LeViT
    provenance: Provenance
    opset: int
    batch_size: int | None = None
    scheme: Scheme = ON_BYTES

    def unrounded(self) -> onnx.ModelProto:
        """Return the form in float: ``rounded`` rounds it, node by node."""
        return self._write(self._builder())

    def places(self) -> Places:
        """Return the names of what ``rounded`` rounds."""
        builder = self._builder()
        self._write(builder)
        return Places(tuple(sorted(builder.points)), tuple(builder.parts))

    def rounded(self, rounding: Rounding) -> onnx.ModelProto:
        """Return the form, rounded."""
        return self._write(self._builder(rounding))

    def _builder(self, rounding: Rounding | None = None) -> Int8Builder:
        batch: int | str = "batch" if self.batch_size is None else self.batch_size
        if self.scheme.every_value:
            arguments = (FLOAT_EMITTERS, self.model, rounding, self.scheme)
            return EveryValueBuilder(self.opset, batch, *arguments)
        emitters = OPENVINO_EMITTERS if self.scheme == FOR_OPENVINO else INT8_EMITTERS
        return Int8Builder(self.opset, batch, emitters, self.model, rounding, self.scheme)

    @cached_property
    def _network(self) -> LeViT:
        """The model that is written, copied once if it takes bytes."""
        if self.provenance.interface.input != "uint8":
            return self.model
        return folded_std(self.model, self.provenance.transform.statistics()[1])

    def _write(self, builder: Int8Builder) -> onnx.ModelProto:
        given, outputs = built(builder, self._network, self.provenance, pixels_on_bytes)
        return to_proto(builder, given, outputs, self.provenance.to_metadata())


def int8_form(model: LeViT, provenance: Provenance, options: ExportOptions) -> Int8Form:
    """Return the form that a rounded artifact of a plain network is the rounding of.

    The provenance is the artifact's own, and tells the precision and the runtime.
    """
    for_openvino = provenance.runtime == "openvino"
    if for_openvino and options.opset is None:  # that form has no use for a later one
        options = replace(options, opset=DEFAULT_OPSET)
    int8 = FOR_OPENVINO if for_openvino else ON_BYTES
    return Int8Form(
        model=model,
        provenance=replace(provenance, precision="fp32"),
        opset=opset_of(options, provenance.precision),
        batch_size=options.fixed_batch,
        scheme=W8A16 if provenance.precision == "w8a16" else int8,
    )
