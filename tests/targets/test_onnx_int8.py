"""The int8 form: in float the same function, and on bytes as onnxruntime runs it."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from float_graphs import CONFIG, int8_form, noise, rounded
from networks import trained
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from optimised import float_products, optimised

from levit_deploy.runtime.compiled import openvino_runner
from levit_deploy.runtime.sessions import onnx_session, runner
from levit_deploy.targets.onnx_int8 import _for_four_pixels

FORMS = [
    {},
    {"opset": 13},
    {"opset": 23},
    {"layout": "spatial"},
    {"batch_size": 2},
    {"config": CONFIG.replace(image_size=(36, 50))},  # a row is no multiple of four pixels
    {"config": CONFIG.replace(image_size=(35, 48), activation="silu")},
    {"config": CONFIG.replace(activation="gelu"), "layout": "spatial"},
    {"config": CONFIG.replace(activation="relu")},
    {"config": CONFIG.replace(attention_activation="relu"), "opset": 23},
    {"config": CONFIG.replace(norm="layernorm", stem_activation="none")},
]


@pytest.mark.parametrize("options", FORMS)
def test_in_float_it_is_the_same_function(options):
    config = options.get("config", CONFIG)
    model = trained(config)
    images = noise(2, config)
    with torch.inference_mode():
        expected = model.double()(torch.from_numpy(images).double()).numpy()
    form = int8_form(model=model.float(), **options)
    onnx.checker.check_model(form.unrounded(), full_check=True)
    found = runner(form.unrounded().SerializeToString(), form.batch_size)(images)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("options", FORMS)
def test_onnxruntime_runs_every_product_on_bytes(options, tmp_path):
    config = options.get("config", CONFIG)
    form = int8_form(**options)
    model = rounded(form, noise(2, config))
    onnx.checker.check_model(model, full_check=True)
    products = Counter(
        n.op_type for n in form.unrounded().graph.node if n.op_type in ("Conv", "Gemm")
    )
    run = optimised(model, tmp_path)
    counts = Counter(node.op_type for node in run.graph.node)
    assert float_products(run) == []
    assert counts["QLinearConv"] == products["Conv"]
    assert counts["QGemm"] == products["Gemm"]


def test_float_products_are_seen(tmp_path):
    form = int8_form()
    model = rounded(form, noise(2), floats=["blocks.1", "patch_embed.2"])
    assert len(float_products(optimised(model, tmp_path))) == 3


@pytest.mark.parametrize(("opset", "rounded_attentions"), [(17, True), (23, False)])
def test_attention_is_on_bytes_but_for_the_operator(opset, rounded_attentions, tmp_path):
    form = int8_form(opset=opset)
    run = optimised(rounded(form, noise(2)), tmp_path)
    counts = Counter(node.op_type for node in run.graph.node)
    trunk = sum(stage.depth for stage in CONFIG.stages)
    subsampling = len(CONFIG.downsamples)
    assert counts["Attention"] == (0 if rounded_attentions else trunk)
    on_bytes = subsampling + (trunk if rounded_attentions else 0)
    assert counts["MatMulIntegerToFloat"] == counts["QLinearMatMul"] == on_bytes


def test_probabilities_of_many_keys_stay_float(tmp_path):
    config = CONFIG.replace(image_size=(144, 128))  # 72 tokens, and 20 behind the subsampling
    images = noise(2, config)
    counts = Counter(
        node.op_type
        for node in optimised(rounded(int8_form(config=config), images), tmp_path).graph.node
    )
    few = CONFIG.stages[1].depth + 1 + CONFIG.stages[2].depth
    assert counts["QLinearMatMul"] == few
    assert counts["MatMulIntegerToFloat"] == few + CONFIG.stages[0].depth + 1


def test_every_hardswish_is_a_product_of_bytes(tmp_path):
    form = int8_form()
    counts = Counter(n.op_type for n in optimised(rounded(form, noise(2)), tmp_path).graph.node)
    gates = sum(node.op_type == "HardSigmoid" for node in form.unrounded().graph.node)
    assert counts["QLinearMul"] == gates - 1 > 10  # the last one is averaged, in float
    assert counts["Mul"] == 1
    assert not {"HardSwish", "HardSigmoid"} & counts.keys()


@pytest.mark.parametrize(
    ("opset", "activation"), [(17, "hardswish"), (23, "hardswish"), (17, "relu")]
)
def test_openvino_computes_what_the_file_says(opset, activation):
    """It takes a wrong mean of bytes, so that there must be none."""
    # 36, 9 and 4 tokens
    config = CONFIG.replace(image_size=(96, 96), activation=activation)
    images = noise(3, config, seed=1)
    data = rounded(int8_form(config=config, opset=opset), noise(4, config)).SerializeToString()
    literal = onnx_session(data, literal=True)
    (expected,) = literal.run(None, {"pixel_values": images})
    (found,) = openvino_runner(data)(images)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * expected.std()


def test_bytes_stay_bytes_to_the_end(tmp_path):
    form = int8_form(input="uint8")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    model = rounded(form, pixels)
    counts = Counter(node.op_type for node in optimised(model, tmp_path).graph.node)
    assert counts["QLinearAdd"] == 1
    assert not {"Cast", "Sub"} & counts.keys()
    expected, found = (
        runner(m.SerializeToString(), None)(pixels) for m in (form.unrounded(), model)
    )
    assert 1e-4 < np.sqrt(np.mean((found - expected) ** 2)) / expected.std() < 0.3


def test_the_grid_of_centred_bytes_is_no_wider_than_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    model = rounded(int8_form(input="uint8"), pixels)
    there = next(n for n in model.graph.node if n.name == "pixels.centred_QuantizeLinear")
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scale, zero_point = (constants[name] for name in there.input[1:])
    # from black in the channel with the largest mean to white in that with the smallest (IMAGENET)
    assert scale == pytest.approx((1 - 0.406 + 0.485) / 255, rel=1e-6)
    assert zero_point == round(0.485 / scale)


def test_bytes_in_are_normalised_as_floats_are():
    mean, std = (np.array(s) for s in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # IMAGENET
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    images = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    expected = runner(int8_form().unrounded().SerializeToString(), None)(images)
    found = runner(int8_form(input="uint8").unrounded().SerializeToString(), None)(pixels)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_four_pixels_at_once_are_the_same_convolution():
    """In whole numbers, beside torch."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-9, 9, (5, 2, 3, 3)).astype(np.float32)
    images = rng.integers(-9, 9, (1, 2, 6, 12)).astype(np.float32)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(images), torch.from_numpy(weight), stride=2, padding=1
    )
    four = torch.from_numpy(images).permute(0, 2, 3, 1).reshape(1, 6, 3, 8).permute(0, 3, 1, 2)
    four = torch.nn.functional.pad(four, (1, 0, 1, 1))
    found = torch.nn.functional.conv2d(
        four, torch.from_numpy(_for_four_pixels(weight)), stride=(2, 1)
    )
    found = found.permute(0, 2, 3, 1).reshape(1, 3, 6, 5).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_a_part_in_float_has_its_own_weights_and_no_other_has():
    form = int8_form()
    parts = form.places().parts
    model = rounded(form, noise(2), floats=[parts[5]])
    names = {tensor.name for tensor in model.graph.initializer}
    products = [part for part in parts if f"{part}.weight_quantized" in names]
    assert f"{parts[5]}.weight" in names
    with_weights = [part for part in parts if not part.endswith(".attention")]
    assert products == [part for part in with_weights if part != parts[5]]


@pytest.mark.parametrize("options", [{}, {"opset": 23}, {"layout": "spatial"}])
def test_with_all_parts_in_float_it_is_the_unrounded_form(options):
    form = int8_form(**options)
    model = rounded(form, noise(2), floats=form.places().parts)
    assert model.graph == form.unrounded().graph


def test_the_runtime_computes_what_onnx_says_of_the_file():
    model = rounded(int8_form(opset=21), noise(8))
    images = noise(2, seed=1)
    (expected,) = ReferenceEvaluator(model).run(None, {"pixel_values": images})
    found = runner(model.SerializeToString(), None)(images)
    np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 256)


def test_one_file_is_written_twice_alike():
    first, second = (rounded(int8_form(), noise(2)).SerializeToString() for _ in range(2))
    assert first == second


def test_weights_use_a_scale_for_each_channel(quantized):
    scales = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    weights = [name for name in scales if name.endswith(".weight_quantized")]
    assert weights
    for name in weights:
        scale = scales[name.replace("_quantized", "_scale")]
        assert scale.shape == (len(scales[name]),)
