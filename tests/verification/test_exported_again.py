"""A file of ours is what its options export today, or it is refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from interfaces import BOTH
from networks import SMALL, trained
from onnx import numpy_helper
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from levit_deploy import pipeline
from levit_deploy.errors import VerificationError
from levit_deploy.provenance import THIS_VERSION
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.fused import FUSED
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx import ONNX_FOR_OPENVINO
from levit_deploy.targets.plan import planned
from levit_deploy.targets.target import ExportOptions
from levit_deploy.verification.exported_again import FLOAT64_ERROR, exported_again

BYTE_BY_BYTE = "the same file as exported again, byte by byte"
SAME_NETWORK = "the same network as exported again: nodes, wires and weights"
FORMATS = [
    "onnx",
    "torchscript",
    pytest.param("pt2", marks=pytest.mark.study),  # 5 seconds for each file
    "fused",
    pytest.param("litert", marks=pytest.mark.litert),
]


def target_of(format):
    return FUSED if format == "fused" else TARGETS[format]


def plan_for(checkpoint, format="onnx", *, target=None, **choices):
    choices = {"head": "mean", "layout": "auto", "precision": "fp32", "options": None} | choices
    return planned(checkpoint, target or target_of(format), **choices)


def compared(checkpoint, path, data):
    """The comparison with a file of this content, without its proof."""
    path.write_bytes(data)
    runtime = "onnxruntime" if data[:1] == b"\x08" else None  # OpenVINO may crash this process
    return exported_again(checkpoint, load_artifact(path, runtime=runtime))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "artifact"


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_the_same_byte_by_byte(checkpoint, path, format):
    found = compared(checkpoint, path, plan_for(checkpoint, format).serialize())
    assert (found.same, found.words) == (True, BYTE_BY_BYTE)


OPTIONS = [
    ("onnx", {"layout": "spatial", "options": ExportOptions(opset=11)}),
    ("onnx", {"layout": "tokens", "options": ExportOptions(opset=23, batch_size=3)}),
    ("onnx", {"precision": "fp16", "options": ExportOptions(batch_size="dynamic")}),
    ("onnx", {"head": "distill", "options": ExportOptions(input_name="a", output_name="b")}),
    ("onnx", {"options": ExportOptions(output_name="pixel_values", input_name="logits")}),
    ("onnx", {"options": BOTH}),
    ("onnx", {"options": replace(BOTH, input_name="camera", output_name="answers")}),
    ("onnx", {"options": ExportOptions(output="features", output_name="vector")}),
    ("onnx", {"options": ExportOptions(output="feature-maps", input_name="x")}),
    ("onnx", {"target": ONNX_FOR_OPENVINO, "precision": "fp16"}),
    ("onnx", {"target": ONNX_FOR_OPENVINO, "options": ExportOptions(batch_size="dynamic")}),
    ("torchscript", {"precision": "bf16", "layout": "spatial", "options": BOTH}),
    ("torchscript", {"options": ExportOptions(output="feature-maps")}),
    ("fused", {"head": "class"}),
    ("litert", {"options": replace(BOTH, batch_size=2)}),
    ("litert", {"options": ExportOptions(input_name="a", output_name="b")}),
    ("litert", {"options": ExportOptions(output="feature-maps")}),
]


@pytest.mark.parametrize(
    ("format", "choices"),
    [
        pytest.param(format, choices, marks=[pytest.mark.litert] if format == "litert" else [])
        for format, choices in OPTIONS
    ],
)
def test_whatever_you_chose_is_chosen_again(square, path, format, choices):
    found = compared(square, path, plan_for(square, format, **choices).serialize())
    assert (found.same, found.words) == (True, BYTE_BY_BYTE)


@pytest.fixture
def tied(checkpoint):
    """A network with a weight half-way between two floats, which float64's own error decides."""
    config = SMALL.replace(norm="none")
    model = trained(config)
    with torch.no_grad():
        model.head.weight[0, 0] = 1.0
        model.head_dist.weight[0, 0] = 1.0 + 2**-23
    return replace(checkpoint, model=model, config=config)


@pytest.mark.parametrize("format", FORMATS)
def test_a_number_that_float64_does_not_decide_may_be_either(tied, path, format):
    plan = plan_for(tied, format)
    data = plan.target.serialize(plan.network(FLOAT64_ERROR / 2), plan.provenance, plan.options)
    assert data != plan.serialize()
    assert compared(tied, path, data).words == SAME_NETWORK
    far = plan.target.serialize(plan.network(2**9 * FLOAT64_ERROR), plan.provenance, plan.options)
    assert compared(tied, path, far).same is False


def edited(data, edit):
    model = onnx.load_model_from_string(data)
    edit(model)
    return model.SerializeToString()


def one_bit(model):
    tensor = next(weight for weight in model.graph.initializer if weight.name == "head.weight")
    weights = numpy_helper.to_array(tensor).copy()
    weights.view(np.uint32)[0, 0] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))


def clipped_beyond_all_inputs(model):
    """A change that no input of a proof shows."""
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1e6), "most"))
    model.graph.node[0].input[0] = "clipped"
    clip = onnx.helper.make_node("Clip", ["pixel_values", "", "most"], ["clipped"], "clip")
    model.graph.node.insert(0, clip)


def opset(version):
    return lambda model: setattr(model.opset_import[0], "version", version)


def claim(**changes):
    def edit(model):
        for entry in model.metadata_props:
            entry.value = changes.get(entry.key, entry.value)

    return edit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_bit, "head.weight has other numbers"),
        (clipped_beyond_all_inputs, "the node clip is one more, or gives other values"),
        (opset(13), "is HardSwish"),
        (opset(10), "none like it can be exported (--opset 10 is not supported"),
        (claim(layout="tokens"), "the node "),
        (claim(layout="columns"), "none like it can be exported ("),
        (claim(config=SMALL.replace(image_size=(96, 64)).to_json()), "has another image_size"),
        (claim(config=SMALL.replace(num_classes=8).to_json()), "has another num_classes"),
        (claim(precision="bf16"), "none like it can be exported (--precision bf16 is not for"),
    ],
)
def test_a_change_is_found(checkpoint, path, change, words):
    data = plan_for(checkpoint).serialize()
    path.write_bytes(data)
    artifact = load_artifact(path)
    path.write_bytes(edited(data, change))
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    found = exported_again(checkpoint, replace(artifact, metadata=metadata))
    assert found.same is False
    assert words in found.words


def test_a_change_of_a_fused_file_is_found(checkpoint, path):
    plan = plan_for(checkpoint, "fused")
    tensors = load_tensors(plan.serialize())
    tensors["head.bias"][0] *= 1 + 2**-22
    found = compared(checkpoint, path, save_tensors(tensors, plan.provenance.to_metadata()))
    assert (found.same, found.words) == (False, "head.bias has other numbers")
    assert "metadata_props" not in found.refusal  # of other tools, only ONNX files are proven


def test_a_file_that_another_version_or_tool_wrote_is_not_compared(checkpoint, path):
    data = edited(plan_for(checkpoint).serialize(), one_bit)
    older = compared(checkpoint, path, edited(data, claim(tool="levit-deploy 0.0.1")))
    assert (older.same, older.words) == (
        None,
        "not compared with a new export, as levit-deploy 0.0.1 wrote the file, and this is "
        f"{THIS_VERSION}",
    )
    foreign = compared(checkpoint, path, edited(data, claim(tool="another 1.0")))
    assert (foreign.same, foreign.words) == (
        None,
        "not compared with a new export, as another tool wrote the file",
    )


def test_of_other_libraries_a_difference_is_no_fault(checkpoint, path):
    data = plan_for(checkpoint).serialize()
    same = compared(checkpoint, path, edited(data, claim(written_with="onnxsim 0.0.1")))
    assert same.words == BYTE_BY_BYTE
    other = edited(edited(data, one_bit), claim(written_with="onnxsim 0.0.1"))
    found = compared(checkpoint, path, other)
    assert found.same is None
    assert "was written with onnxsim 0.0.1, and here are onnx " in found.words
    assert "head.weight has other numbers" in found.words


def test_a_target_that_says_nothing_is_compared_byte_by_byte(checkpoint, path, monkeypatch):
    bytewise = replace(TARGETS["onnx"], difference=None)
    monkeypatch.setitem(TARGETS, "onnx", bytewise)
    data = plan_for(checkpoint).serialize()
    assert compared(checkpoint, path, data).same is True
    assert str(compared(checkpoint, path, edited(data, one_bit))) == "some bytes are others"
    others = edited(data, claim(written_with="onnxsim 0.0.1"))
    assert compared(checkpoint, path, others).same is None


def test_native_code_is_not_compiled_again(checkpoint, path):
    data = plan_for(checkpoint).serialize()
    path.write_bytes(data)
    artifact = load_artifact(path)
    metadata = {**artifact.metadata, "processor": "x86-64-v3"}
    found = exported_again(checkpoint, replace(artifact, metadata=metadata))
    assert (found.same, "native code" in found.words) == (None, True)


def test_a_proof_fails_by_the_graph_alone(checkpoint, exported):
    assert pipeline.verify(checkpoint, exported).graph.words == BYTE_BY_BYTE
    onnx.save(onnx.load_model_from_string(edited(exported.read_bytes(), one_bit)), exported)
    proof = pipeline.verify(checkpoint, exported)
    assert all(not case.failures for case in proof.cases)
    assert proof.failures == (
        "comparison with the file exported again: head.weight has other numbers",
    )
    assert (proof.passed, proof.verdict) == (False, "not proven")
    with pytest.raises(VerificationError, match=r"head\.weight has other numbers") as error:
        proof.raise_if_failed()
    assert error.value.evidence is proof
    assert "remove its metadata_props" in str(error.value)
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, exported)
    assert pipeline.verify(checkpoint, exported).passed


def test_the_way_out_is_only_told_if_it_is_one(square, path):
    data = plan_for(square, options=BOTH).serialize()
    found = compared(square, path, edited(data, one_bit))
    assert found.same is False
    assert "metadata_props" not in found.refusal


def test_an_export_is_not_exported_twice(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "exported_again", None)
    published = pipeline.export(checkpoint, "onnx", tmp_path / "a.onnx")
    assert published.verification.graph is None
