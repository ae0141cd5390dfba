"""The ONNX writer where it computes in float16."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL, configs, float64_logits, images, trained
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from levit_deploy.choices import LAYOUTS
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import CheckpointError
from levit_deploy.layout import to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_contract import check_contract
from levit_deploy.targets.onnx_opsets import OPSETS
from levit_deploy.targets.onnx_writer import to_onnx

CASES = [("tokens", 17), ("spatial", 17), ("tokens", 23)]


@cache
def plain(config: LeViTConfig, layout: str, seed: int) -> LeViT:
    model = to_plain(trained(config, seed))
    return to_spatial(model) if layout == "spatial" else model


def build(
    config: LeViTConfig = SMALL,
    layout: str = "tokens",
    opset: int = 17,
    precision: str = "fp16",
    seed: int = 0,
) -> onnx.ModelProto:
    provenance = Provenance(
        checkpoint_sha256="ab" * 32, config=config, head="mean", layout=layout, precision=precision
    )
    return to_onnx(plain(config, layout, seed), provenance, opset=opset)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return session.run(["logits"], {"pixel_values": x})[0]


def rmse(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.sqrt(((found - expected) ** 2).mean()))


def unit(config: LeViTConfig, x: torch.Tensor, seed: int = 0) -> float:
    """The original's own error in float16, or a few steps of the largest logit."""
    expected = float64_logits(trained(config, seed), x)
    with torch.inference_mode():
        own = trained(config, seed).half()(x.half()).float().numpy()
    return max(rmse(own, expected), 2.0**-10 * np.abs(expected).max())


@settings(deadline=None, max_examples=6)
@given(configs(), st.sampled_from(LAYOUTS), st.sampled_from(OPSETS), st.integers(0, 99))
def test_it_errs_no_more_than_the_original_in_float16_and_keeps_the_contract(
    config, layout, opset, seed
):
    proto, x = build(config, layout, opset, seed=seed), images(config)
    found = run(proto, x.numpy())
    assert found.dtype == np.float32
    assert rmse(found, float64_logits(trained(config, seed), x)) < 2 * unit(config, x, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(proto.SerializeToString())
        check_contract(path)


@pytest.mark.parametrize(
    ("layout", "opset", "activation"),
    [
        ("tokens", 17, "hardswish"),
        ("tokens", 17, "gelu"),
        ("spatial", 20, "gelu"),
        ("tokens", 23, "silu"),
        ("spatial", 23, "hardswish"),
    ],
)
def test_computed_in_float16_from_operator_to_operator_it_still_agrees(layout, opset, activation):
    # onnxruntime on a CPU computes in float32 between; the reference evaluator never does
    config = SMALL.replace(activation=activation, norm="layernorm")
    proto, x = build(config, layout, opset), images(config)
    (found,) = ReferenceEvaluator(proto).run(["logits"], {"pixel_values": x.numpy()})
    assert found.dtype == np.float32
    assert rmse(found, float64_logits(trained(config), x)) < 2 * unit(config, x)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_float32_graph_between_two_casts(layout, opset):
    single, half = build(SMALL, layout, opset, "fp32"), build(SMALL, layout, opset)
    first, *inner, last = half.graph.node
    assert [(node.op_type, node.name) for node in inner] == [
        (node.op_type, node.name) for node in single.graph.node
    ]
    for one, two in zip(inner, single.graph.node, strict=True):
        assert [a.SerializeToString() for a in one.attribute] == [
            a.SerializeToString() for a in two.attribute
        ]
    assert (first.op_type, list(first.input)) == ("Cast", ["pixel_values"])
    assert (last.op_type, list(last.output)) == ("Cast", ["logits"])
    for value in (*half.graph.input, *half.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    types = {value.type.tensor_type.elem_type for value in half.graph.value_info}
    assert types == {TensorProto.FLOAT16}


@pytest.mark.parametrize(("layout", "opset"), [*CASES, ("spatial", 20)])
def test_the_declared_types_and_shapes_are_those_onnx_infers(layout, opset):
    proto = build(SMALL.replace(activation="gelu"), layout, opset)
    declared = {value.name: value for value in proto.graph.value_info}
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, True, True, True).graph.value_info
    assert {value.name for value in inferred} == declared.keys()
    for value in inferred:
        one, two = value.type.tensor_type, declared[value.name].type.tensor_type
        assert one.elem_type == two.elem_type == TensorProto.FLOAT16
        assert [d.dim_value for d in one.shape.dim][1:] == [d.dim_value for d in two.shape.dim][1:]


def weights(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_weights_are_the_float32_ones_rounded_once():
    single, half = weights(build(precision="fp32")), weights(build())
    assert single.keys() == half.keys()
    for name, weight in single.items():
        expected = weight.astype(np.float16) if weight.dtype == np.float32 else weight
        assert half[name].dtype == expected.dtype
        np.testing.assert_array_equal(half[name], expected)


def test_a_weight_too_small_is_zero_and_one_too_large_is_refused_by_name():
    model = to_plain(trained())
    provenance = Provenance(
        checkpoint_sha256="", config=SMALL, head="mean", layout="tokens", precision="fp16"
    )
    weight = model.blocks[1].m[0].weight.data
    weight[0, 0], weight[0, 1] = 2.0**-26, -(2.0**-24)
    found = weights(to_onnx(model, provenance))["blocks.1.m.0.weight"]
    assert (found[0, 0], found[0, 1]) == (0, -(2.0**-24))  # the latter is the smallest there is
    weight[3, 2] = 65504
    to_onnx(model, provenance)
    weight[3, 2] = -65520  # rounds to infinity
    with pytest.raises(CheckpointError, match=r"m\.0\.weight holds 6\.55e\+04") as caught:
        to_onnx(model, provenance)
    assert "--precision fp32" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("layout", "opset"), CASES)
def test_any_batch_runs_and_each_image_is_on_its_own(layout, opset):
    proto, x = build(SMALL, layout, opset), images(n=64)
    together, few = run(proto, x.numpy()), 4 * unit(SMALL, x[:8])
    assert together.shape == (64, 7)
    for i in (0, 63):
        np.testing.assert_allclose(run(proto, x[i : i + 1].numpy())[0], together[i], 0, few)


def test_building_does_not_change_the_model():
    model = to_plain(trained())
    before = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    to_onnx(
        model,
        Provenance(
            checkpoint_sha256="0", config=SMALL, head="mean", layout="tokens", precision="fp16"
        ),
    )
    after = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    assert after == before
