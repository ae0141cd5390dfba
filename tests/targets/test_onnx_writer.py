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
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from levit_deploy.choices import LAYOUTS
from levit_deploy.config import NORMS, VARIANTS, Downsample, LeViTConfig
from levit_deploy.layout import to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_contract import check_contract
from levit_deploy.targets.onnx_opsets import OPSETS
from levit_deploy.targets.onnx_writer import to_onnx

FEW_ULPS = 16 * 2.0**-23  # 250 random networks stayed below 6.4
CASES = [("tokens", 17), ("spatial", 17), ("tokens", 23)]
ONE_STAGE = SMALL.replace(stages=SMALL.stages[:1], downsamples=())


@cache
def plain(config: LeViTConfig, layout: str, seed: int = 0) -> LeViT:
    return (
        to_spatial(plain(config, "tokens", seed))
        if layout == "spatial"
        else to_plain(trained(config, seed))
    )


def build(
    config: LeViTConfig = SMALL,
    layout: str = "tokens",
    opset: int = 17,
    batch_size: int | None = None,
    seed: int = 0,
) -> onnx.ModelProto:
    provenance = Provenance(checkpoint_sha256="ab" * 32, config=config, head="mean", layout=layout)
    return to_onnx(plain(config, layout, seed), provenance, opset=opset, batch_size=batch_size)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return session.run(["logits"], {"pixel_values": x})[0]


@cache
def expected(config: LeViTConfig, n: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The float64 logits, and the sum of the absolute values that each of them adds up.

    A float32 sum errs by a few ulps of the latter, even where the logit itself cancels.
    """
    model, x = trained(config, seed), images(config, n)
    head = plain(config, "tokens", seed).head
    with torch.inference_mode():
        features = model.forward_features(x).abs().amax(1, keepdim=True)
        scale = features * head.weight.abs().sum(1) + head.bias.abs()
    return float64_logits(model, x), scale.numpy()


def error(got: np.ndarray, config: LeViTConfig = SMALL, n: int = 3, seed: int = 0) -> float:
    assert got.dtype == np.float32
    logits, scale = expected(config, n, seed)
    return float((np.abs(got - logits) / scale).max())


def ops(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@settings(deadline=None, max_examples=12)
@given(configs(), st.sampled_from(LAYOUTS), st.sampled_from(OPSETS), st.integers(0, 99))
def test_onnxruntime_agrees_with_float64_and_the_contract_holds(config, layout, opset, seed):
    proto = build(config, layout, opset, seed=seed)
    # a LayerNorm over channels that are nearly alike makes any rounding before it larger, in
    # onnxruntime, which subtracts the squared mean from the mean of squares, more than in torch
    with torch.inference_mode():
        unavoidable = error(trained(config, seed)(images(config)).numpy(), config, seed=seed)
    got = error(run(proto, images(config).numpy()), config, seed=seed)
    assert got < max(FEW_ULPS, 8 * unavoidable), (got, unavoidable)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(proto.SerializeToString())
        check_contract(path)


@pytest.mark.parametrize(
    ("activation", "opset"),
    [
        *(("hardswish", opset) for opset in OPSETS),
        *(("gelu", opset) for opset in (11, 19, 20)),
        ("relu", 11),
        ("silu", 11),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_onnxruntime_agrees_with_float64_at_every_opset(layout, activation, opset):
    config = SMALL.replace(activation=activation)
    got = run(build(config, layout, opset), images(config).numpy())
    assert error(got, config) < FEW_ULPS


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("opset", [OPSETS[0], 16, 17, OPSETS[-1]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_built_another_way_agree_with_float64(layout, opset, norm):
    config = SMALL.replace(
        norm=norm,
        stem_activation="none",
        attention_activation="gelu",
        bias_over_scale=True,
        ln_eps=1e-2,
    )
    proto = build(config, layout, opset)
    x = images(config).numpy()
    assert error(run(proto, x), config) < FEW_ULPS
    (reference,) = ReferenceEvaluator(proto).run(["logits"], {"pixel_values": x})
    assert error(reference, config) < FEW_ULPS
    # one a block of attention, none where it subsamples
    operator = "LayerNormalization" if opset >= 17 else "Sqrt"  # of its parts
    assert ops(proto).count(operator) == (4 if norm == "layernorm" else 0)


@pytest.mark.parametrize(
    ("activation", "layout", "opset"),
    [
        ("hardswish", "tokens", 17),
        ("hardswish", "spatial", 18),
        ("hardswish", "tokens", 23),
        ("silu", "spatial", 17),
        ("gelu", "tokens", 17),
        ("gelu", "spatial", 20),
        ("silu", "tokens", 23),
    ],
)
def test_the_reference_evaluator_agrees_with_float64(activation, layout, opset):
    config = SMALL.replace(activation=activation)
    evaluator = ReferenceEvaluator(build(config, layout, opset))
    (got,) = evaluator.run(["logits"], {"pixel_values": images(config).numpy()})
    assert error(got, config) < FEW_ULPS


def test_a_stride_of_three_and_odd_sides_agree_with_float64():
    down = Downsample(num_heads=5, key_dim=4, value_dim=12, mlp_dim=9, stride=3)
    config = SMALL.replace(
        image_size=(99, 65), stages=SMALL.stages[:2], downsamples=(down,), in_channels=1
    )
    for layout, opset in CASES:
        got = run(build(config, layout, opset), images(config).numpy())
        assert error(got, config) < FEW_ULPS


@pytest.mark.slow
def test_the_graph_of_levit_256_stays_small():
    config = VARIANTS["LeViT-256"]
    counts = {case: len(build(config, *case).graph.node) for case in CASES}
    assert counts["tokens", 17] <= 300
    assert counts["spatial", 17] <= 280
    assert counts["tokens", 23] <= 195


def test_no_more_nodes_than_the_operators_need():
    # stem 7, to_tokens 2; 4 attentions of 8 (Gemm, Reshape, Split, Attention, Reshape, HardSwish,
    # Gemm, Add); 2 subsamplings of 12 (7 of these, 5 for q); 5 MLPs of 4; pooling 4 more; head
    assert len(build(opset=23).graph.node) == 7 + 2 + 4 * 8 + 2 * 12 + 5 * 4 + 4 + 1


@pytest.mark.parametrize("opset", [11, 13, 14, 17, 20, 23])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_these_operators_of_the_standard_set_are_used(layout, opset):
    proto = build(SMALL, layout, opset)
    allowed = {"Conv", "Gemm", "Add", "Reshape", "Transpose", "Split", "ReduceMean"}
    allowed |= {"HardSwish"} if opset >= 14 else {"HardSigmoid", "Mul"}
    allowed |= {"Attention"} if (layout, opset) == ("tokens", 23) else {"MatMul", "Softmax"}
    allowed |= {"Slice"} if layout == "tokens" else set()
    assert set(ops(proto)) == allowed
    assert [(used.domain, used.version) for used in proto.opset_import] == [("", opset)]
    assert not any(node.domain for node in proto.graph.node)


@pytest.mark.parametrize(
    ("activation", "opset", "present", "absent"),
    [
        ("silu", 17, {"Sigmoid", "Mul"}, {"HardSwish", "Gelu", "Erf"}),
        ("silu", 23, {"Sigmoid", "Mul"}, {"HardSwish", "Gelu", "Erf"}),
        ("gelu", 19, {"Erf", "Mul", "Add"}, {"HardSwish", "Gelu"}),
        ("gelu", 20, {"Gelu"}, {"HardSwish", "Erf", "Mul"}),
        ("gelu", 23, {"Gelu"}, {"HardSwish", "Erf", "Mul"}),
        ("hardswish", 17, {"HardSwish"}, {"Gelu", "Erf", "Sigmoid"}),
        ("hardswish", 14, {"HardSwish"}, {"HardSigmoid", "Mul"}),
        ("hardswish", 13, {"HardSigmoid", "Mul"}, {"HardSwish"}),
    ],
)
def test_each_activation_is_its_operator_where_the_opset_has_one(
    activation, opset, present, absent
):
    config = SMALL.replace(activation=activation)
    found = set(ops(build(config, "tokens", opset)))
    assert present <= found
    assert not absent & found


@pytest.mark.parametrize("opset", OPSETS)
def test_each_attention_is_one_operator_from_opset_23(opset):
    proto = build(SMALL, opset=opset)
    expected = 6 if opset >= 23 else 0  # SMALL has six attentions
    assert ops(proto).count("Attention") == expected
    assert ops(proto).count("Softmax") == 6 - expected


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_gemm_makes_the_logits(layout, opset):
    proto = build(SMALL, layout, opset)
    producers = [node for node in proto.graph.node if "logits" in node.output]
    assert [node.op_type for node in producers] == ["Gemm"]
    assert not [node for node in proto.graph.node if "logits" in node.input]
    assert not [node for node in proto.graph.node if "head_dist" in node.name]


@pytest.mark.parametrize("config", [SMALL, ONE_STAGE], ids=["three stages", "one stage"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("opset", [17, 23])
def test_names_are_the_checkpoints_and_every_block_occurs(opset, layout, config):
    graph = build(config, layout, opset).graph
    blocks = {f"blocks.{i}" for i in range(11 if config == SMALL else 4)}
    stem = {f"patch_embed.{i}" for i in range(7)}
    for names in (
        [node.name for node in graph.node],
        [name for node in graph.node for name in node.output if name != "logits"],
    ):
        owners = {".".join(name.split(".")[:2]) for name in names}
        assert blocks | stem <= owners
        others = owners - blocks - stem
        assert {name.split(".")[0] for name in others} <= {"to_tokens", "pool", "head"}
        assert len(set(names)) == len(names)
    # weights as in the state dict, but for the BatchNorms that are no more
    floats = {w.name for w in graph.initializer if w.data_type == TensorProto.FLOAT}
    assert {"patch_embed.0.weight", "blocks.0.m.qkv.weight", "blocks.1.m.2.bias"} <= floats
    assert {"blocks.0.m.proj.1.weight", "head.weight"} <= floats


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_batch_runs_and_each_image_is_on_its_own(layout, opset):
    proto = build(SMALL, layout, opset)
    x = images(n=64).numpy()
    together = run(proto, x)
    assert together.shape == (64, 7)
    for i in (0, 1, 63):
        alone = run(proto, x[i : i + 1])
        assert alone.shape == (1, 7)
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 3, 32, 96), (1, 3, 96, 64), (1, 3, 65, 96), (1, 1, 64, 96)])
def test_another_image_shape_is_refused(layout, shape):
    proto = build(SMALL, layout)
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 64, 96]
    with pytest.raises(Exception, match="invalid dimensions"):
        run(proto, np.zeros(shape, np.float32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fixed_batch_takes_that_batch_only(layout):
    x = images(n=3)
    proto = build(SMALL, layout, 17, 3)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_value == 3
    assert error(run(proto, x.numpy())) < FEW_ULPS
    with pytest.raises(Exception, match="invalid dimensions"):
        run(proto, x[:2].numpy())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_metadata_says_where_the_file_comes_from(layout):
    config = SMALL.replace(activation="silu", bn_eps=1e-3)
    proto = to_onnx(
        plain(config, layout),
        Provenance(checkpoint_sha256="cd" * 32, config=config, head="distill", layout=layout),
    )
    found = {prop.key: prop.value for prop in proto.metadata_props}
    assert found.keys() == set(
        Provenance(checkpoint_sha256="", config=config, head="", layout="").to_metadata()
    )
    assert found["tool"].startswith("levit-deploy ")
    assert found["checkpoint_sha256"] == "cd" * 32
    assert LeViTConfig.from_json(found["config"]) == config
    assert (found["head"], found["layout"]) == ("distill", layout)
    assert Provenance.from_metadata(found) == Provenance(
        checkpoint_sha256="cd" * 32, config=config, head="distill", layout=layout
    )


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fixed_batch_at_an_old_opset(layout, opset):
    proto = build(SMALL, layout, opset, batch_size=3)
    assert error(run(proto, images().numpy())) < FEW_ULPS


@pytest.mark.parametrize("opset", OPSETS)
def test_the_file_is_readable_by_the_oldest_runtime_that_knows_the_opset(opset):
    proto = build(SMALL, opset=opset)
    # onnx's own table: release, IR version, opset of the standard domain, ...
    rows = [row for row in helper.VERSION_TABLE if row[2] == opset]
    assert proto.ir_version == min(row[1] for row in rows)
    assert proto.producer_name == "levit-deploy"


def shapes(values: list[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("opset", "activation"),
    [(11, "hardswish"), (13, "gelu"), (17, "gelu"), (18, "hardswish"), (23, "gelu")],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_declared_shapes_are_those_onnx_infers(layout, opset, activation, norm):
    config = SMALL.replace(activation=activation, norm=norm)
    proto = build(config, layout, opset, 2)
    weights = {weight.name: list(weight.dims) for weight in proto.graph.initializer}
    declared = weights | shapes(proto.graph.value_info)
    assert {name: declared.pop(name) for name in weights} == weights
    assert declared.keys() == {
        name for node in proto.graph.node for name in node.output if name != "logits"
    }
    logits = shapes(proto.graph.output)
    del proto.graph.value_info[:]
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(proto, True, True, True).graph
    assert shapes(inferred.value_info) == declared
    assert shapes(inferred.output) == logits == {"logits": [2, 7]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_shapes_of_a_dynamic_batch_are_those_of_a_fixed_one(layout):
    dynamic = shapes(build(SMALL, layout, 23).graph.value_info)
    fixed = shapes(build(SMALL, layout, 23, 5).graph.value_info)
    assert dynamic.keys() == fixed.keys()
    for name, sizes in dynamic.items():
        # 'batch' and 'batch*24' are expressions in the one name that varies
        values = [eval(s, {"batch": 5}) if isinstance(s, str) else s for s in sizes]
        assert values == fixed[name], name
        assert all(isinstance(size, int) for size in sizes[1:]), name


@pytest.mark.parametrize(("layout", "opset"), CASES)
def test_a_simplifier_finds_nothing_to_leave_out(layout, opset):
    import onnxsim  # slow to import, and for this alone

    proto = build(SMALL, layout, opset)
    simpler, _ = onnxsim.simplify(proto)
    assert len(simpler.graph.node) == len(proto.graph.node)


@pytest.mark.parametrize(("layout", "opset"), CASES)
def test_attention_over_a_single_token_keeps_the_contract(layout, opset, tmp_path):
    config = SMALL.replace(image_size=(16, 16))
    proto = build(config, layout, opset)
    assert error(run(proto, images(config).numpy()), config) < FEW_ULPS
    onnx.save(proto, tmp_path / "model.onnx")
    check_contract(tmp_path / "model.onnx")


def test_building_does_not_change_the_model():
    model = to_plain(trained())
    before = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    for opset in (17, 23):
        to_onnx(
            model,
            Provenance(checkpoint_sha256="0", config=SMALL, head="mean", layout="tokens"),
            opset=opset,
        )
    after = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    assert after == before
