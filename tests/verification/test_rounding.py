import numpy as np
import onnx
import pytest
from float_graphs import float_graph, noise
from onnx import numpy_helper

from levit_deploy.errors import VerificationError
from levit_deploy.quantization.calibration import quantize_graph
from levit_deploy.quantization.rounding import quantized_blocks, restored
from levit_deploy.verification.rounding import check_rounding


def copied(model):
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


@pytest.mark.parametrize("options", [{}, {"opset": 23}, {"layout": "spatial"}, {"batch_size": 2}])
def test_nothing_but_rounding_is_found_in_what_was_rounded(options):
    plain = float_graph(**options)
    model = quantize_graph(plain, noise(4), "Percentile", "vnni")
    check_rounding(model, plain)
    check_rounding(restored(model, plain, quantized_blocks(model)[::2]), plain)


def initializer(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def change(model, name, function):
    tensor = initializer(model, name)
    array = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(function(array).astype(array.dtype), name))


def one_step_off(array):
    array.flat[array.size // 2] += 1 if array.flat[array.size // 2] < 0 else -1
    return array


def named(model, *op_types):
    return next(n for n in model.graph.node if n.op_type in op_types)


def swap_inputs(model):
    adds = [n for n in model.graph.node if n.op_type == "MatMul"]
    adds[0].input[0], adds[1].input[0] = adds[1].input[0], adds[0].input[0]


SABOTAGE = {
    "a weight one step off": lambda m: change(m, "head.weight_quantized", one_step_off),
    "a bias off": lambda m: change(m, "head.bias_quantized", lambda a: a + 1000),
    "a scale off by 2 %": lambda m: change(m, "head.weight_scale", lambda a: a * 1.02),
    "a zero point off": lambda m: change(m, "head.weight_zero_point", lambda a: a + 2),
    "an attention bias off": lambda m: change(m, "blocks.0.m.attention_bias", lambda a: a + 1e-3),
    "a shape off": lambda m: change(
        m, next(t.name for t in m.graph.initializer if "int64" in t.name), lambda a: a[::-1]
    ),
    "an input rounded with another scale than it is read with": lambda m: (
        named(m, "DequantizeLinear") and _other_scale(m)
    ),
    "an activation scale of NaN": lambda m: change(m, "pixel_values_scale", lambda a: a * np.nan),
    "a negative weight scale": lambda m: change(m, "head.weight_scale", lambda a: -a),
    "an infinite weight scale": lambda m: change(m, "head.weight_scale", lambda a: a * np.inf),
    "a negative activation scale": lambda m: change(m, "pixel_values_scale", lambda a: -a),
    "an activation for another": lambda m: setattr(named(m, "HardSwish"), "op_type", "Relu"),
    "an attribute": lambda m: setattr(named(m, "Softmax").attribute[0], "i", 1),
    "wires crossed": swap_inputs,
    "a node more": lambda m: m.graph.node.append(
        onnx.helper.make_node("Relu", ["logits"], ["more"], "more")
    ),
    "another output": lambda m: setattr(m.graph.output[0], "name", "scores"),
    "another input": lambda m: setattr(m.graph.input[0], "name", "input"),
}


def _other_scale(model):
    back = next(
        n
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0].startswith("pixel_values")
    )
    tensor = onnx.TensorProto()
    tensor.CopyFrom(initializer(model, back.input[1]))
    tensor.name = "another_scale"
    array = numpy_helper.to_array(tensor) * np.float32(1.5)
    model.graph.initializer.append(numpy_helper.from_array(array, "another_scale"))
    back.input[1] = "another_scale"


@pytest.mark.parametrize("name", SABOTAGE)
def test_whatever_is_not_rounding_is_refused(plain, quantized, name):
    model = copied(quantized)
    SABOTAGE[name](model)
    assert model != quantized
    with pytest.raises(VerificationError, match="not the checkpoint's float network"):
        check_rounding(model, plain)


def test_a_rounded_weight_that_is_computed_is_refused(plain, quantized):
    model = copied(quantized)
    gemm = next(n for n in model.graph.node if "logits" in n.output)
    gemm.input[1] = next(n for n in model.graph.node if n.op_type == "MatMul").output[0]
    with pytest.raises(VerificationError, match="computed, and was a weight"):
        check_rounding(model, plain)


def test_another_network_rounded_is_refused(plain):
    other = float_graph()
    change(other, "blocks.1.m.0.weight", lambda a: a * 1.05)
    with pytest.raises(VerificationError, match="rounded"):
        check_rounding(quantize_graph(other, noise(2), "MinMax", "any"), plain)
