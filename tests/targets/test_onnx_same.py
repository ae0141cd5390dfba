"""Every change of an ONNX file is told, but for one that computes nothing else."""

import numpy as np
import onnx
import pytest
from networks import SMALL, trained
from onnx import numpy_helper

from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx import ONNX
from levit_deploy.targets.onnx_same import chosen, difference
from levit_deploy.targets.target import ExportOptions


@pytest.fixture(scope="module")
def data():
    provenance = Provenance(checkpoint_sha256="0", config=SMALL, head="mean", layout="spatial")
    return ONNX.serialize(to_spatial(to_plain(trained())), provenance, ExportOptions())


def edited(data, edit):
    model = onnx.load_model_from_string(data)
    edit(model)
    return model.SerializeToString()


def named(entries, name):
    return next(entry for entry in entries if entry.name == name)


def of_type(model, op_type):
    return next(node for node in model.graph.node if node.op_type == op_type)


def set_weight(model, name, change):
    tensor = named(model.graph.initializer, name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


def one_bit(model):
    def change(weights):
        weights = weights.copy()
        weights.view(np.uint32)[0, 0] ^= 1
        return weights

    set_weight(model, "head.weight", change)


def not_a_number(model):
    set_weight(model, "head.bias", lambda weights: weights * np.float32("nan"))


def transposed_weight(model):
    set_weight(model, "head.weight", lambda weights: weights.T.copy())


def another_dtype(model):
    set_weight(model, "head.bias", lambda weights: weights.astype(np.float64))


def another_whole_number(model):
    tensor = next(t for t in model.graph.initializer if t.name.startswith("int64."))
    set_weight(model, tensor.name, lambda numbers: numbers + 1)


def missing_input(model):
    del of_type(model, "Gemm").input[2]


def missing_weight(model):
    model.graph.initializer.remove(named(model.graph.initializer, "head.bias"))


def unused_weight(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "more"))


def unreadable_weight(model):
    named(model.graph.initializer, "head.bias").ClearField("raw_data")


def another_operator(model):
    of_type(model, "HardSwish").op_type = "HardSigmoid"


def another_domain(model):
    of_type(model, "HardSwish").domain = "ai.onnx.other"


def another_attribute(model):
    of_type(model, "Softmax").attribute[0].i = -2


def swapped_wires(model):
    node = of_type(model, "Add")
    node.input[:] = [*node.input][::-1]


def a_node_more(model):
    last = model.graph.node[-1]
    last.output[0] = "head.earlier"
    model.graph.node.append(onnx.helper.make_node("Relu", ["head.earlier"], ["logits"], "relu"))


def a_node_that_nothing_reads(model):
    model.graph.node.append(onnx.helper.make_node("Relu", ["logits"], ["unread"], "relu"))


def a_node_less(model):
    node = of_type(model, "Softmax")
    following = next(n for n in model.graph.node if node.output[0] in n.input)
    following.input[list(following.input).index(node.output[0])] = node.input[0]
    model.graph.node.remove(node)


def a_value_given_twice(model):
    model.graph.node.append(model.graph.node[3])


def another_opset(model):
    model.opset_import[0].version = 16


def an_opset_more(model):
    model.opset_import.add(domain="ai.onnx", version=11)


def another_ir_version(model):
    model.ir_version = 9


def another_batch(model):
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "images"


def another_output(model):
    model.graph.output.add().CopyFrom(model.graph.output[0])


def another_shape_declared(model):
    model.graph.value_info[0].type.tensor_type.shape.dim[1].dim_value += 1


def a_function(model):
    model.functions.add(name="more", domain="mine")


CHANGES = {
    one_bit: "head.weight has other numbers",
    not_a_number: "head.bias has other numbers",
    transposed_weight: "head.weight is float32 of shape (18, 7) instead of float32 of shape (7, ",
    another_dtype: "head.bias is float64 of shape (7,) instead of float32 of shape (7,)",
    another_whole_number: "has other numbers",
    missing_input: " takes blocks.10.m.pool.mean, blocks.10.m.2.weight instead of ",
    missing_weight: "head.bias is missing",
    unused_weight: "more is one more",
    unreadable_weight: "a weight cannot be read (",
    another_operator: "is HardSigmoid instead of HardSwish",
    another_domain: "is ai.onnx.other.HardSwish instead of HardSwish",
    another_attribute: "has other attributes",
    swapped_wires: "instead of",
    a_node_more: "the node head.gemm is one more, or gives other values",
    a_node_that_nothing_reads: "the node relu is one more, or gives other values",
    a_node_less: "takes",
    a_value_given_twice: "comes from two places",
    another_opset: "it has other operator sets",
    an_opset_more: "it has other operator sets",
    another_ir_version: "its IR version is 9 instead of 8",
    another_batch: "it has other inputs, or declares them otherwise",
    another_output: "it has other outputs, or declares them otherwise",
    another_shape_declared: "is declared otherwise",
    a_function: "it has functions, sparse weights or steps of training",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_told(data, change):
    assert CHANGES[change] in difference(edited(data, change), data, data)


def a_missing_node(model):
    model.graph.node.pop()


def test_a_node_that_is_missing_is_told(data):
    assert difference(edited(data, a_missing_node), data, data).startswith("the node head.gemm is")


HARMLESS = {
    "nothing": lambda _model: None,
    "a comment": lambda model: setattr(model, "doc_string", "mine"),
    "a name": lambda model: setattr(model.graph.node[0], "name", "first"),
    "a key of the metadata": lambda model: model.metadata_props.add(key="author", value="me"),
    "no declared shapes": lambda model: model.graph.ClearField("value_info"),
    "all shapes": lambda model: model.CopyFrom(onnx.shape_inference.infer_shapes(model)),
    "the order of the weights": lambda model: model.graph.initializer.reverse(),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_a_change_that_computes_nothing_else_is_none(data, change):
    assert difference(edited(data, HARMLESS[change]), data, data) == ""


def test_a_number_lies_between_two_others(data):
    def moved(by):
        def change(model):
            set_weight(model, "head.bias", lambda bias: bias + np.float32(by))

        return edited(data, change)

    assert difference(data, moved(-0.1), moved(0.1)) == ""
    assert difference(data, moved(0.1), moved(-0.1)) == ""
    assert difference(data, moved(0.1), moved(0.2)) == "head.bias has other numbers"


def test_the_options_that_only_the_file_tells_are_read(data):
    def rename(model):
        model.opset_import[0].version = 15
        model.graph.input[0].name, model.graph.output[0].name = "camera", "answers"

    options = ExportOptions(batch_size=3)
    assert chosen(options, data) == ExportOptions(opset=17, batch_size=3)
    named = ExportOptions(opset=15, batch_size=3, input_name="camera", output_name="answers")
    assert chosen(options, edited(data, rename)) == named
