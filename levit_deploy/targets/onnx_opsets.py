"""The ONNX operator sets that can be written, and the domains of their operators."""

from levit_deploy.choices import Precision
from levit_deploy.targets.target import ExportOptions

# The oldest IR version that allows each operator set, so that the oldest runtimes read the file
# (the table "released versions" in onnx's Versioning.md).
IR_VERSIONS = {11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8}
IR_VERSIONS |= {19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
OPSETS = tuple(IR_VERSIONS)
DEFAULT_OPSET = 17
SIXTEEN_BITS_OPSET = 21  # the first that rounds to 16 bits
ATTENTION_OPSET = 23  # the first with an Attention operator
CHANNEL_SCALES_OPSET = 13  # the first that rounds with a scale for each channel
STANDARD_DOMAINS = ("", "ai.onnx")
ROUNDING_OPS = ("QuantizeLinear", "DequantizeLinear")  # of int8
MOVEMENTS = ("Reshape", "Slice", "Transpose")  # which move bytes as well as floats


def opset_of(options: ExportOptions, precision: Precision) -> int:
    """The operator set that you chose, or the one that makes the faster file.

    Measured (docs/int8.md): the Attention operator is faster than a subgraph on bytes for an image
    at a time, and slower for batches.
    """
    if options.opset is not None:
        return options.opset
    if precision == "w8a16":
        return SIXTEEN_BITS_OPSET
    one_by_one = options.fixed_batch in (None, 1)
    return ATTENTION_OPSET if precision == "int8" and one_by_one else DEFAULT_OPSET
