"""The ONNX operator sets that can be written, and the domains of their operators."""

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
