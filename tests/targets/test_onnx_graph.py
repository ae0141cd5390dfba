import numpy as np
import onnx
import pytest
import torch
from networks import SMALL, trained
from onnx.reference import ReferenceEvaluator
from torch import nn

from levit_deploy.errors import LevitDeployError
from levit_deploy.model import MeanPool, Subsample, ToTokens
from levit_deploy.passes.fuse_batchnorm import fuse_batchnorm
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_graph import GraphBuilder, Value
from levit_deploy.targets.onnx_layers import LAYER_EMITTERS
from levit_deploy.targets.onnx_proto import to_proto
from levit_deploy.targets.onnx_writer import to_onnx


def evaluate(module: nn.Module, x: np.ndarray, shape: list[int | str], opset: int = 17):
    """The declared shape and the value of what one emitter makes of ``module``."""
    graph = GraphBuilder(opset, "batch", LAYER_EMITTERS)
    source = Value("x", np.dtype(np.float32), tuple(shape))
    result = graph.emit(module, source, "blocks.0")
    proto = to_proto(graph, source, [result], {})
    onnx.checker.check_model(proto, full_check=True)
    (value,) = ReferenceEvaluator(proto).run(None, {"x": x})
    return [str(size) for size in result.shape], value


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_a_linear_layer_is_x_times_its_transposed_weight_plus_its_bias():
    linear = nn.Linear(5, 3)
    x = noise(4, 5)
    shape, value = evaluate(linear, x, ["batch", 5])
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    expected = x.astype(np.float64) @ weight.astype(np.float64).T + bias
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)
    assert shape == ["batch", "3"]


def test_a_convolution_is_its_sum_over_the_padded_window():
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    x = noise(2, 2, 5, 8)
    shape, value = evaluate(conv, x, ["batch", 2, 5, 8])
    weight = conv.weight.detach().numpy().astype(np.float64)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((2, 3, 3, 4)) + conv.bias.detach().numpy()[:, None, None]
    for y in range(3):
        for z in range(4):
            window = padded[:, :, 2 * y : 2 * y + 3, 2 * z : 2 * z + 3]
            expected[:, :, y, z] += np.einsum("bcij,ocij->bo", window, weight)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)
    assert shape == ["batch", "3", "3", "4"]


@pytest.mark.parametrize("opset", [11, 14, 20])
@pytest.mark.parametrize(
    ("module", "formula"),
    [
        (nn.Hardswish(), lambda x: x * np.clip(x + 3, 0, 6) / 6),
        (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
        (nn.GELU(), lambda x: x * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy()) / 2),
    ],
)
def test_an_activation_is_its_formula(module, formula, opset):
    x = np.linspace(-8, 8, 321, dtype=np.float32)[None]
    _, value = evaluate(module, x, ["batch", 321], opset)
    np.testing.assert_allclose(value, formula(x.astype(np.float64)), rtol=0, atol=2e-6)


def test_tokens_are_the_pixels_row_by_row():
    x = noise(2, 5, 3, 4)
    shape, value = evaluate(ToTokens(), x, ["batch", 5, 3, 4])
    expected = [x[b, :, y, z] for b in range(2) for y in range(3) for z in range(4)]
    np.testing.assert_array_equal(value, np.stack(expected))
    assert shape == ["batch*12", "5"]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_subsampling_keeps_every_other_row_and_column(stride):
    x = noise(2 * 5 * 4, 3)
    shape, value = evaluate(Subsample((5, 4), stride), x, ["batch*20", 3])
    pixels = x.reshape(2, 5, 4, 3)
    rows, columns = range(0, 5, stride), range(0, 4, stride)
    expected = [pixels[b, y, z] for b in range(2) for y in rows for z in columns]
    np.testing.assert_array_equal(value, np.stack(expected))
    assert shape == [f"batch*{len(rows) * len(columns)}", "3"]


@pytest.mark.parametrize("opset", [11, 18])
def test_the_pooling_is_the_mean_over_each_images_tokens(opset):
    x = noise(3 * 6, 5)
    shape, value = evaluate(MeanPool(6), x, ["batch*6", 5], opset)
    expected = x.astype(np.float64).reshape(3, 6, 5).mean(1)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)
    assert shape == ["batch", "5"]


def test_equal_integers_and_scalars_are_stored_once():
    graph = GraphBuilder(17, "batch", {})
    assert graph.integers([1, 2]) is graph.integers([1, 2])
    assert graph.integers([1, 2]) is not graph.integers([2, 1])
    assert graph.scalar(0.5) is graph.scalar(0.5)
    assert len(graph.initializers) == 3


def test_a_module_that_no_emitter_knows_is_refused_by_name():
    with pytest.raises(LevitDeployError, match=r"^patch_embed\.0 is a Conv2d_BN, which no ONNX"):
        to_onnx(
            trained(), Provenance(checkpoint_sha256="0", config=SMALL, head="mean", layout="tokens")
        )
    with pytest.raises(LevitDeployError, match=r"^blocks\.0\.m is a Tanh, which no ONNX"):
        to_onnx(
            _with_unknown_block(),
            Provenance(checkpoint_sha256="0", config=SMALL, head="mean", layout="tokens"),
        )


def _with_unknown_block() -> nn.Module:
    model = fuse_batchnorm(trained())
    model.blocks[0].m = nn.Tanh()
    return model
