import onnx
import pytest
from float_graphs import float_graph, noise

from levit_deploy.quantization.calibration import quantize_graph


@pytest.fixture(scope="session")
def plain() -> onnx.ModelProto:
    return float_graph()


@pytest.fixture(scope="session")
def quantized(plain) -> onnx.ModelProto:
    return quantize_graph(plain, noise(8), "MinMax", "any")
