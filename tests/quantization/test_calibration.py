import numpy as np
import onnx
import pytest
from float_graphs import float_graph, noise
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from levit_deploy.quantization.calibration import METHODS, quantize_graph
from levit_deploy.runtime.sessions import runner


def rounded_weights(model):
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype == np.int8 and array.ndim}


@pytest.mark.parametrize(("cpu", "most"), [("any", 64), ("vnni", 127)])
def test_weights_use_the_range_that_the_processor_can_add_up(plain, cpu, most):
    weights = rounded_weights(quantize_graph(plain, noise(2), "MinMax", cpu))
    matrices = {name: array for name, array in weights.items() if array.ndim > 1}
    assert len(matrices) == sum(node.op_type in ("Conv", "Gemm") for node in plain.graph.node)
    for array in matrices.values():
        assert np.abs(array.astype(int)).max() in (most - 1, most)
        # a scale for each output channel, or some would stay far below
        channels = np.abs(array.astype(int)).reshape(len(array), -1)
        assert min(channels.max(1)) >= most / 2 or min(channels.max(0)) >= most / 2


def test_only_products_and_what_follows_a_conv_take_rounded_values(plain, quantized):
    originals = {node.name: node for node in plain.graph.node}
    convs = {name for node in plain.graph.node if node.op_type == "Conv" for name in node.output}
    counts = {True: 0, False: 0}
    for node in quantized.graph.node:
        if node.name in originals:
            for found, name in zip(node.input, originals[node.name].input, strict=True):
                rounded = node.op_type in ("Conv", "Gemm") or name in convs
                assert (found == name) != rounded or name.endswith(".bias")
                counts[rounded] += 1
    assert min(counts.values()) > 20


@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_near_the_float_network(plain, method):
    model = quantize_graph(plain, noise(8), method, "any")
    images = noise(4, seed=1)
    expected, found = (runner(m.SerializeToString(), None)(images) for m in (plain, model))
    apart = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    assert 1e-4 < apart < 0.3


def test_the_runtime_computes_what_onnx_says_of_the_file():
    quantized = quantize_graph(float_graph(opset=21), noise(8), "MinMax", "any")
    images = noise(2, seed=1)
    (expected,) = ReferenceEvaluator(quantized).run(None, {"pixel_values": images})
    found = runner(quantized.SerializeToString(), None)(images)
    step = np.abs(expected).max() / 256
    np.testing.assert_allclose(found, expected, atol=step)


def test_calibration_repeats_itself_and_says_nothing(plain, capfd, caplog):
    first, second = (quantize_graph(plain, noise(6), "Entropy", "any") for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_each_image_counts(plain):
    images = noise(5)
    images[4] *= 10
    ranges = [quantize_graph(plain, images[:n], "MinMax", "any").graph.initializer for n in (4, 5)]
    scales = [
        {t.name: numpy_helper.to_array(t) for t in tensors if t.name == "pixel_values_scale"}
        for tensors in ranges
    ]
    assert scales[1]["pixel_values_scale"] > 5 * scales[0]["pixel_values_scale"]


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"opset": 23}, {"layout": "spatial"}])
def test_any_float_graph_of_ours_can_be_quantized(options):
    plain = float_graph(**options)
    model = quantize_graph(plain, noise(6), "MinMax", "any")
    onnx.checker.check_model(model, full_check=True)
    images, batch = noise(6, seed=1), options.get("batch_size")
    expected, found = (runner(m.SerializeToString(), batch)(images) for m in (plain, model))
    assert found.shape == expected.shape
    assert np.sqrt(np.mean((found - expected) ** 2)) / expected.std() < 0.3
