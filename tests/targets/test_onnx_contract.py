import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import SMALL, trained
from onnx import ModelProto, helper, numpy_helper

from levit_deploy.errors import VerificationError
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_contract import check_contract
from levit_deploy.targets.onnx_writer import to_onnx


@pytest.fixture(scope="module")
def good() -> ModelProto:
    return to_onnx(
        to_plain(trained()),
        Provenance(checkpoint_sha256="0", config=SMALL, head="mean", layout="tokens"),
    )


def refusal(model: ModelProto, path: Path) -> str:
    onnx.save(model, path)
    with pytest.raises(VerificationError) as caught:
        check_contract(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edited(good: ModelProto, edit: Callable[[ModelProto], None]) -> ModelProto:
    model = copy.deepcopy(good)
    edit(model)
    return model


def head(model: ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if "logits" in node.output)


def insert_before_head(model: ModelProto, op_type: str, name: str, **attributes) -> None:
    """Put a node with one input between the pooling and the head."""
    gemm = head(model)
    source, gemm.input[0] = gemm.input[0], name
    domain = attributes.pop("domain", "")
    node = helper.make_node(op_type, [source], [name], name, domain=domain, **attributes)
    model.graph.node.insert(list(model.graph.node).index(gemm), node)


@pytest.mark.parametrize("layout", ["tokens", "spatial"])
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("opset", [17, 23])
def test_a_good_file_is_accepted_and_counted(opset, batch_size, layout, tmp_path):
    plain = to_plain(trained())
    if layout == "spatial":
        plain = to_spatial(plain)
    provenance = Provenance(checkpoint_sha256="0", config=SMALL, head="mean", layout=layout)
    model = to_onnx(plain, provenance, opset=opset, batch_size=batch_size)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert check_contract(path) == {"nodes": len(model.graph.node), "opset": opset}


def test_an_identity_is_refused(good, tmp_path):
    model = edited(good, lambda m: insert_before_head(m, "Identity", "head.identity"))
    assert "1 Identity nodes" in refusal(model, tmp_path / "model.onnx")


def test_a_constant_is_refused(good, tmp_path):
    def add_constant(model):
        value = numpy_helper.from_array(np.ones(2, np.float32))
        node = helper.make_node("Constant", [], ["head.c"], "head.c", value=value)
        model.graph.node.insert(0, node)

    model = edited(good, add_constant)
    assert "1 Constant nodes" in refusal(model, tmp_path / "model.onnx")


def test_a_batchnorm_left_over_is_refused(good, tmp_path):
    def add_batchnorm(model):
        gemm = head(model)
        values = [np.ones(18, np.float32)] * 4
        names = [f"head.bn.{i}" for i in range(4)]
        for name, value in zip(names, values, strict=True):
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        node = helper.make_node(
            "BatchNormalization", [gemm.input[0], *names], ["head.bn"], "head.bn"
        )
        gemm.input[0] = "head.bn"
        model.graph.node.insert(len(model.graph.node) - 1, node)

    model = edited(good, add_batchnorm)
    assert "1 BatchNormalization nodes" in refusal(model, tmp_path / "model.onnx")


def test_a_domain_that_onnxruntime_knows_is_refused(good, tmp_path):
    def add_contrib(model):
        insert_before_head(model, "Gelu", "head.gelu", domain="com.microsoft")
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    message = refusal(edited(good, add_contrib), tmp_path / "model.onnx")
    assert "operators outside the standard set" in message
    assert "com.microsoft" in message


def test_a_domain_that_no_runtime_knows_is_refused(good, tmp_path):
    def add_custom(model):
        insert_before_head(model, "Magic", "head.magic", domain="com.example")
        model.opset_import.append(helper.make_opsetid("com.example", 1))

    message = refusal(edited(good, add_custom), tmp_path / "model.onnx")
    assert "operators outside the standard set" in message
    assert "com.example" in message


def test_a_domain_that_is_imported_and_not_used_is_refused(good, tmp_path):
    model = copy.deepcopy(good)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "operators outside the standard set" in refusal(model, tmp_path / "model.onnx")


def test_a_second_output_is_refused(good, tmp_path):
    def add_output(model):
        name = head(model).input[0]
        value = next(value for value in model.graph.value_info if value.name == name)
        model.graph.output.append(value)

    message = refusal(edited(good, add_output), tmp_path / "model.onnx")
    assert "other inputs or outputs than pixel_values and logits" in message


def test_a_dynamic_height_is_refused(good, tmp_path):
    def free_height(model):
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"

    message = refusal(edited(good, free_height), tmp_path / "model.onnx")
    assert "pixel_values is dynamic in more than its batch" in message


def test_a_batch_without_a_name_is_refused(good, tmp_path):
    def forget(model):
        model.graph.input[0].type.tensor_type.shape.dim[0].Clear()

    message = refusal(edited(good, forget), tmp_path / "model.onnx")
    assert "the batch of pixel_values is neither fixed nor named" in message


@pytest.mark.parametrize("smallest", [0, 256])
def test_weights_in_another_file_are_refused(smallest, good, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(
        copy.deepcopy(good),
        path,
        save_as_external_data=True,
        location="weights",
        size_threshold=smallest,  # 0 moves the shapes out as well, which onnxruntime cannot load
    )
    assert (tmp_path / "weights").exists()
    with pytest.raises(VerificationError, match="weights outside the file"):
        check_contract(path)


def test_logits_that_no_gemm_makes_are_refused(good, tmp_path):
    def add_relu(model):
        head(model).output[0] = "head.gemm"
        model.graph.node.append(helper.make_node("Relu", ["head.gemm"], ["logits"], "head.relu"))

    message = refusal(edited(good, add_relu), tmp_path / "model.onnx")
    assert "logits comes from ['Relu'], not from one Gemm" in message


@pytest.fixture(scope="module")
def half() -> ModelProto:
    provenance = Provenance(
        checkpoint_sha256="0", config=SMALL, head="mean", layout="tokens", precision="fp16"
    )
    return to_onnx(to_plain(trained()), provenance)


def test_a_float16_file_is_accepted_with_its_two_casts(half, good, tmp_path):
    onnx.save(half, tmp_path / "model.onnx")
    nodes = check_contract(tmp_path / "model.onnx")["nodes"]
    assert nodes == len(good.graph.node) + 2


def test_casts_inside_are_refused(half, tmp_path):
    def cast_and_back(model):
        gemm = next(n for n in model.graph.node if n.op_type == "Gemm" and n.name == "head.gemm")
        source, at = gemm.input[0], list(model.graph.node).index(gemm)
        for name, to in (("head.single", 1), ("head.half", 10)):
            model.graph.node.insert(at, helper.make_node("Cast", [source], [name], name, to=to))
            source, at = name, at + 1
        gemm.input[0] = source

    message = refusal(edited(half, cast_and_back), tmp_path / "model.onnx")
    assert "4 Cast nodes instead of none, or of one at each border" in message


def test_logits_rounded_to_float16_and_back_are_refused(good, tmp_path):
    def round_logits(model):
        head(model).output[0] = "head.gemm"
        for source, name, to in (("head.gemm", "head.half", 10), ("head.half", "logits", 1)):
            node = helper.make_node("Cast", [source], [name], f"head.cast{to}", to=to)
            model.graph.node.append(node)

    message = refusal(edited(good, round_logits), tmp_path / "model.onnx")
    assert "2 Cast nodes" in message
    assert "not from one Gemm" in message


def test_weights_in_two_types_are_refused(half, tmp_path):
    def widen(model):
        tensor = next(t for t in model.graph.initializer if t.name == "head.bias")
        tensor.CopyFrom(numpy_helper.from_array(np.ones(7, np.float32), "head.bias"))

    message = refusal(edited(half, widen), tmp_path / "model.onnx")
    assert "weights in FLOAT, FLOAT16 beside 2 Cast nodes" in message


def test_a_node_with_a_foreign_name_is_refused(good, tmp_path):
    def rename(model):
        model.graph.node[3].name = "Conv_42"

    message = refusal(edited(good, rename), tmp_path / "model.onnx")
    assert "names that no block of the checkpoint has: Conv_42" in message


def test_a_value_with_a_foreign_name_is_refused(good, tmp_path):
    def rename(model):
        gemm = head(model)
        maker = next(node for node in model.graph.node if gemm.input[0] in node.output)
        gemm.input[0] = maker.output[0] = "onnx::Gemm_7"

    message = refusal(edited(good, rename), tmp_path / "model.onnx")
    assert "names that no block of the checkpoint has: onnx::Gemm_7" in message


def test_what_the_checker_refuses_is_refused(good, tmp_path):
    def declare_wrongly(model):
        value = next(v for v in model.graph.value_info if v.name == head(model).input[0])
        value.type.tensor_type.shape.dim[1].dim_value = 17

    message = refusal(edited(good, declare_wrongly), tmp_path / "model.onnx")
    assert "onnx.checker refuses it" in message


def test_every_broken_clause_is_named(good, tmp_path):
    def break_twice(model):
        insert_before_head(model, "Identity", "head.identity")
        model.graph.node[3].name = "Conv_42"

    message = refusal(edited(good, break_twice), tmp_path / "model.onnx")
    assert "1 Identity nodes" in message
    assert "Conv_42" in message
