import numpy as np
import onnx
from onnx import TensorProto

from levit_deploy.targets.onnx_graph import GraphBuilder, Value
from levit_deploy.targets.onnx_proto import to_proto


def test_what_no_output_depends_on_is_not_written():
    graph = GraphBuilder(17, "batch", {})
    x = Value("x", np.dtype(np.float32), ("batch", 3))
    wanted = graph.like("Add", [x, graph.scalar(1.0)], "wanted")
    unused = graph.like("Mul", [wanted, graph.scalar(2.0)], "unused")
    graph.like("Relu", [unused], "behind")
    end = graph.finished(graph.like("Neg", [wanted], "negative"), "y")
    proto = to_proto(graph, x, [end], {"some": "word"})
    onnx.checker.check_model(proto, full_check=True)
    assert [node.name for node in proto.graph.node] == ["wanted", "negative"]
    assert [weight.name for weight in proto.graph.initializer] == ["float32.1.0"]
    assert [value.name for value in proto.graph.output] == ["y"]
    assert [(p.key, p.value) for p in proto.metadata_props] == [("some", "word")]


def test_every_value_between_has_its_type_and_shape():
    graph = GraphBuilder(21, "batch", {})
    x = Value("x", np.dtype(np.float32), ("batch", 4))
    grid = [graph.scalar(0.5), graph.constant(np.array(3, np.uint16), "zero")]
    number = graph.op("QuantizeLinear", [x, *grid], "number", ["batch", 4])
    floats = graph.op("DequantizeLinear", [number, *grid], "floats", ["batch", 4])
    halves = graph.cast(floats, "halves", np.float16)
    rows = graph.reshape(halves, "rows", ["batch*2", 2])
    proto = to_proto(graph, x, [graph.cast(rows, "y", np.float32)], {})
    onnx.checker.check_model(proto, full_check=True)
    declared = {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in proto.graph.value_info
    }
    assert declared == {
        "number": (TensorProto.UINT16, ["batch", 4]),
        "floats": (TensorProto.FLOAT, ["batch", 4]),
        "halves": (TensorProto.FLOAT16, ["batch", 4]),
        "rows": (TensorProto.FLOAT16, ["batch*2", 2]),
    }


def test_numbers_are_written_row_by_row():
    graph = GraphBuilder(17, "batch", {})
    x = Value("x", np.dtype(np.float32), ("batch", 2))
    numbers = np.arange(6, dtype=np.float32).reshape(3, 2).T
    product = graph.op("MatMul", [x, graph.constant(numbers, "weight")], "y", ["batch", 3])
    (weight,) = to_proto(graph, x, [product], {}).graph.initializer
    assert list(weight.dims) == [2, 3]
    assert np.frombuffer(weight.raw_data, "<f4").tolist() == [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]
