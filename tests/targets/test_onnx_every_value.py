"""w8a16: every value between nodes is rounded, as compilers for NPUs expect it."""

from collections import Counter

import numpy as np
import onnx
import pytest
from float_graphs import CONFIG, int8_form, noise, rounded
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from levit_deploy.runtime.sessions import runner
from levit_deploy.targets.onnx_contract import broken_clauses
from levit_deploy.targets.onnx_schemes import W8A16

FORMS = [
    {},
    {"layout": "spatial"},
    {"opset": 23},
    {"batch_size": None},
    {"input": "uint8"},
    {"config": CONFIG.replace(norm="layernorm", activation="gelu"), "layout": "spatial"},
    {"config": CONFIG.replace(activation="silu", attention_activation="relu")},
]
MOVES = ("Reshape", "Slice", "Split", "Transpose")


def w8a16_form(**options):
    return int8_form(**{"opset": 21, "batch_size": 1, "scheme": W8A16, **options})


def images_for(form):
    if form.provenance.interface.input == "uint8":
        return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    return noise(3, form.provenance.config)


@pytest.fixture(scope="module")
def rounded_form():
    form = w8a16_form()
    return rounded(form, noise(3), cpu="vnni")


def grid(model, node):
    """The scale, the zero point and the type of a node that rounds or reads."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    scale, zero_point = (constants[name] for name in node.input[1:])
    return (
        float(numpy_helper.to_array(scale)),
        int(numpy_helper.to_array(zero_point)),
        zero_point.data_type,
    )


@pytest.mark.parametrize("options", FORMS)
def test_every_node_stands_between_reading_and_rounding(options):
    form = w8a16_form(**options)
    model = rounded(form, images_for(form), cpu="vnni")
    onnx.checker.check_model(model, full_check=True)
    assert broken_clauses(model, form.provenance.interface) == []
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    integers = {t.name for t in model.graph.initializer if t.data_type == TensorProto.INT64}
    computing = [
        node
        for node in model.graph.node
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
        and makers.get(node.input[0], node).op_type == "DequantizeLinear"
    ]
    assert len(computing) == sum(
        node.op_type not in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node
    ) - (options.get("input") == "uint8")  # the bytes of a picture are moved first
    for node in computing:
        taken = {makers[name].op_type for name in node.input if name not in integers}
        assert taken == {"DequantizeLinear"}, node.name
        assert [readers[name] for name in node.output] == [["QuantizeLinear"]] * len(node.output)
    assert makers["logits"].op_type == "DequantizeLinear"


def test_activations_have_16_bits_weights_8_and_biases_32(rounded_form):
    numbers = {tensor.name: tensor.data_type for tensor in rounded_form.graph.initializer}
    kinds = {"weight": TensorProto.INT8, "bias": TensorProto.INT32}
    for name, kind in numbers.items():
        if name.endswith("_quantized"):
            expected = kinds.get(name.removesuffix("_quantized").rpartition(".")[2])
            assert kind == (expected or TensorProto.UINT16), name
    rounding = [n for n in rounded_form.graph.node if n.op_type == "QuantizeLinear"]
    assert {grid(rounded_form, node)[2] for node in rounding} == {TensorProto.UINT16}


@pytest.mark.parametrize("options", [{}, {"layout": "spatial"}])
def test_a_moved_value_keeps_its_grid(options):
    model = rounded(w8a16_form(**options), noise(3), cpu="vnni")
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = {n.input[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    moves = [node for node in model.graph.node if node.op_type in MOVES]
    assert len(moves) > 10
    for node in moves:
        before = grid(model, makers[node.input[0]])
        assert all(grid(model, readers[name]) == before for name in node.output)


@pytest.mark.parametrize("opset", [21, 22, 23])
def test_a_hardswish_is_one_node_and_attention_is_none(opset):
    form = w8a16_form(opset=opset)
    counts = Counter(node.op_type for node in form.unrounded().graph.node)
    assert counts["HardSwish"] > 10
    assert counts["Softmax"] == sum(s.depth for s in CONFIG.stages) + len(CONFIG.downsamples)
    assert not {"HardSigmoid", "Clip", "Attention"} & counts.keys()


def test_bytes_of_a_picture_are_on_the_grid_of_16_bits():
    form = w8a16_form(input="uint8")
    model = rounded(form, images_for(form), cpu="vnni")
    scale, zero_point, _ = grid(
        model, next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    )
    assert zero_point == 0
    np.testing.assert_allclose(1 / 255 / scale, 257, rtol=1e-6)


def test_parts_that_stay_float_take_and_give_floats():
    form = w8a16_form()
    parts = form.places().parts
    assert rounded(form, noise(2), floats=parts).graph == form.unrounded().graph
    model = rounded(form, noise(2), floats=["blocks.2"])
    inside = [n for n in model.graph.node if n.name.startswith("blocks.2.")]
    rounding = [n for n in inside if n.op_type == "QuantizeLinear"]
    # what it gives is rounded by the next block
    assert [n.name for n in rounding] == ["blocks.2.add_QuantizeLinear"]


def test_it_is_far_closer_than_int8_but_for_the_weights(rounded_form):
    images = noise(4, seed=1)
    expected = runner(w8a16_form().unrounded().SerializeToString(), 1)(images)

    def error(model):
        found = runner(model.SerializeToString(), 1)(images)
        return np.sqrt(np.mean((found - expected) ** 2)) / expected.std()

    int8 = error(rounded(int8_form(opset=21, batch_size=1), noise(3), cpu="vnni"))
    assert 1e-4 < error(rounded_form) < 0.7 * int8


def test_the_runtime_computes_what_onnx_says_of_the_file(rounded_form):
    images = noise(1, seed=1)
    (expected,) = ReferenceEvaluator(rounded_form).run(None, {"pixel_values": images})
    found = runner(rounded_form.SerializeToString(), 1)(images)
    np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 2**12)
