"""Every change of a LiteRT file is told, but for one that computes nothing else."""

import pytest
from networks import TINY, trained

from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.litert import LITERT
from levit_deploy.targets.target import ExportOptions

pytestmark = pytest.mark.litert


@pytest.fixture(scope="module")
def data():
    provenance = Provenance(checkpoint_sha256="0", config=TINY, head="mean", layout="tokens")
    return LITERT.serialize(to_plain(trained(TINY)), provenance, ExportOptions())


def edited(data, change):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def bias_moved(bits):
    def change(model, graph):
        (tensor,) = (tensor for tensor in graph.tensors if tensor.name == b"head.bias")
        numbers = model.buffers[tensor.buffer].data.copy()
        numbers[0] ^= bits
        model.buffers[tensor.buffer].data = numbers

    return change


def stride(_model, graph):
    graph.operators[1].builtinOptions.strideH = 1


def wire(_model, graph):
    operator = graph.operators[-1]
    operator.inputs = [operator.inputs[0] - 1, *operator.inputs[1:]]


def constant_output(_model, graph):
    bias = next(tensor for tensor in graph.tensors if tensor.name == b"head.bias")
    graph.tensors[graph.outputs[0]].buffer = bias.buffer


def second_graph(model, graph):
    model.subgraphs.append(graph)


def operator_less(_model, graph):
    graph.operators.pop()


def nothing(_model, _graph):
    pass


def names(model, graph):
    graph.name = b"mine"
    for tensor in graph.tensors:
        tensor.name += b"s"
    model.description = b"mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (bias_moved(1), "head.bias has other numbers"),
        (stride, "operator 1 is another, or in one of them only"),
        (wire, "is another, or in one of them only"),
        (constant_output, "is a constant in one of them only"),
        (second_graph, "a part is missing, or there is one more"),
        (operator_less, "is another, or in one of them only"),
    ],
)
def test_a_change_is_told(data, change, words):
    from levit_deploy.targets.litert_same import difference

    assert words in difference(edited(data, change), data, data)


@pytest.mark.parametrize("change", [nothing, names])
def test_a_change_that_computes_nothing_else_is_none(data, change):
    from levit_deploy.targets.litert_same import difference

    assert difference(edited(data, change), data, data) == ""


def test_a_number_lies_between_two_others(data):
    from levit_deploy.targets.litert_same import difference

    files = [data, *(edited(data, bias_moved(bits)) for bits in (2, 4))]
    least, middle, most = sorted(files, key=first_of_bias)
    assert difference(middle, least, most) == difference(middle, most, least) == ""
    assert difference(least, middle, most) == "head.bias has other numbers"


def first_of_bias(data):
    from levit_deploy.targets.litert_file import numbers_of, read_model

    model = read_model("it", data)
    tensors = model.subgraphs[0].tensors
    (bias,) = (tensor for tensor in tensors if tensor.name == b"head.bias")
    return numbers_of(model, bias)[0]
