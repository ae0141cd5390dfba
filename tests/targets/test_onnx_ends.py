"""Files with other names at their ends: ours by option, and those of other tools."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import SMALL, TINY, float64_logits, images, trained
from onnx import TensorProto, helper

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import ArtifactError, UsageError, VerificationError
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx import ONNX
from levit_deploy.targets.onnx_contract import broken_clauses, check_contract
from levit_deploy.targets.onnx_ends import renamed, require_names, with_usual_names
from levit_deploy.targets.onnx_writer import to_onnx
from levit_deploy.targets.target import ExportOptions

PROVENANCE = Provenance(checkpoint_sha256="ab" * 32, config=SMALL, head="mean", layout="tokens")
USUAL = ("pixel_values", "logits")


@pytest.fixture(scope="module")
def ours():
    return to_onnx(to_plain(trained()), PROVENANCE)


def foreign(ours, path, edit=lambda _graph: None, input_name="input", output_name="output"):
    """The file as another tool would write it: without our metadata, with other names."""
    model = renamed(ours, input_name, output_name)
    del model.metadata_props[:]
    edit(model.graph)
    onnx.save(model, path)
    return path


def end_names(model):
    return [value.name for value in (*model.graph.input, *model.graph.output)]


# --- names that you chose -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("images", "scores"),
        ("input.1", None),
        (None, "out:0"),
        ("logits", "pixel_values"),  # as if to confuse
        ("blocks.0.m.qkv.gemm", "patch_embed.0.conv"),  # names of values inside
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_ends_have_the_names_chosen_and_the_rest_is_the_same(tmp_path, names, precision):
    provenance = Provenance(
        checkpoint_sha256="ab" * 32, config=SMALL, head="mean", layout="tokens", precision=precision
    )
    model, path = to_plain(trained()), tmp_path / "a.onnx"
    path.write_bytes(
        ONNX.serialize(model, provenance, ExportOptions(input_name=names[0], output_name=names[1]))
    )
    expected = [name or usual for name, usual in zip(names, USUAL, strict=True)]
    assert end_names(onnx.load(path)) == expected
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = images().numpy()
    (found,) = session.run([expected[1]], {expected[0]: x})
    usual = onnxruntime.InferenceSession(
        ONNX.serialize(model, provenance, ExportOptions()), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(found, usual.run(None, {"pixel_values": x})[0])
    assert check_contract(path)["opset"] == 17
    artifact = load_artifact(path)
    np.testing.assert_array_equal(artifact.run(x), found)
    assert artifact.remarks == ()


def test_a_choice_of_names_is_undone_without_a_trace(ours):
    for names in (("images", "scores"), ("blocks.0.m.qkv.gemm", "head.x"), ("logits", "input")):
        other = renamed(ours, *names)
        assert end_names(other) == list(names)
        assert end_names(ours) == list(USUAL)
        assert with_usual_names(other, PROVENANCE.interface) == ours
        assert broken_clauses(other)  # which go by names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("", None), "--input-name ''"),
        (("two words", None), "--input-name 'two words'"),
        ((None, "9lives"), "--output-name '9lives'"),
        ((None, 'a"b'), "--output-name 'a\"b'"),
        ((None, "größe"), "--output-name 'größe'"),
        (("x\n", None), r"--input-name 'x\\n'"),
        (("x", "x"), "both be called x"),
        (("logits", None), "both be called logits"),
        ((None, "pixel_values"), "both be called pixel_values"),
    ],
)
def test_names_that_a_graph_cannot_have_are_refused(names, expected):
    with pytest.raises(UsageError, match=expected):
        require_names(names, USUAL)


def test_names_are_checked_before_anything_is_written(tmp_path, checkpoint):
    for format, options, expected in (
        ("onnx", ExportOptions(input_name="a b"), "--input-name"),
        ("torchscript", ExportOptions(output_name="scores"), "is not for --format torchscript"),
    ):
        with pytest.raises(UsageError, match=expected):
            pipeline.export(checkpoint, format, tmp_path / "out", options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


def test_bytes_and_probabilities_have_the_names_chosen_too(tmp_path, square):
    """Even those of the values that they are made into and from."""
    options = ExportOptions(
        input="uint8", output="probabilities", input_name="pixel_values", output_name="logits"
    )
    published = pipeline.export(square, "onnx", tmp_path / "a.onnx", options=options)
    assert published.verification.passed
    assert published.verification.remarks == ()
    model = onnx.load(tmp_path / "a.onnx")
    assert end_names(model) == ["pixel_values", "logits"]
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8


# --- files of other tools -------------------------------------------------------------------------


def test_one_input_and_one_output_are_taken_by_place_and_it_is_said(ours, tmp_path):
    path = foreign(ours, tmp_path / "a.onnx")
    artifact = load_artifact(path)
    assert artifact.remarks == (
        "The input was taken by place: input.",
        "The output was taken by place: output.",
    )
    found = artifact.run(images().numpy())
    np.testing.assert_allclose(found, float64_logits(trained(), images()), rtol=0, atol=1e-4)
    usual = load_artifact(foreign(ours, tmp_path / "b.onnx", output_name="logits"))
    assert usual.remarks == ("The input was taken by place: input.",)


def test_the_metadata_of_another_tool_state_nothing(ours, tmp_path):
    model = onnx.load(foreign(ours, tmp_path / "a.onnx"))
    onnx.helper.set_model_props(model, {"output": "scores", "precision": "FP32", "names": "{}"})
    onnx.save(model, tmp_path / "b.onnx")
    artifact = load_artifact(tmp_path / "b.onnx")
    assert (artifact.metadata, artifact.interface.output) == ({}, "logits")


def test_a_proof_says_that_it_went_by_place(ours, tmp_path, checkpoint):
    path = foreign(ours, tmp_path / "a.onnx", input_name="x.1", output_name="123")
    proof = pipeline.verify(checkpoint, path)
    assert proof.passed
    assert "The input was taken by place: x.1." in proof.remarks
    wrong = foreign(ours, tmp_path / "b.onnx", _scaled)
    proof = pipeline.verify(checkpoint, wrong)
    with pytest.raises(VerificationError, match=r"taken by place: output\. Do not ship it"):
        proof.raise_if_failed()


def _scaled(graph):
    """All logits a little larger."""
    graph.node[-1].output[0] = "exact"
    graph.initializer.append(helper.make_tensor("factor", TensorProto.FLOAT, [], [1.01]))
    graph.node.append(helper.make_node("Mul", ["exact", "factor"], [graph.output[0].name]))


def _another_output(name):
    def edit(graph):
        graph.node.append(helper.make_node("Neg", [graph.output[0].name], [name]))
        graph.output.add().CopyFrom(graph.output[0])
        graph.output[1].name = name

    return edit


def _another_input(graph):
    graph.input.add().CopyFrom(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    last = graph.node[-1].output[0]
    graph.node[-1].output[0] = "unmasked"
    graph.node.append(helper.make_node("Mul", ["unmasked", "mask"], [last]))


def test_of_several_outputs_the_one_by_name_is_taken(ours, tmp_path):
    edit = _another_output("others")
    artifact = load_artifact(foreign(ours, tmp_path / "a.onnx", edit, "input", "logits"))
    assert artifact.remarks == ("The input was taken by place: input.",)
    found = artifact.run(images().numpy())
    np.testing.assert_allclose(found, float64_logits(trained(), images()), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (_another_output("777"), r"the outputs output, 777\. Expected one of any name, or logits"),
        (_another_input, r"the inputs input, mask\. Expected one of any name"),
    ],
)
def test_of_several_without_the_name_none_is_taken(ours, tmp_path, edit, expected):
    with pytest.raises(ArtifactError, match=expected):
        load_artifact(foreign(ours, tmp_path / "a.onnx", edit))


def _normalised_by_the_batch(graph):
    """The input as a BatchNormalization in training mode leaves it."""
    channels = SMALL.in_channels
    for name, value in (("ones", 1.0), ("nulls", 0.0)):
        numbers = [value] * channels
        graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [channels], numbers))
    _before(
        graph,
        helper.make_node(
            "BatchNormalization",
            [graph.input[0].name, "ones", "nulls", "nulls", "ones"],
            ["normalised", "mean", "var"],
            training_mode=1,
        ),
    )


def _centred_over_the_batch(graph):
    name = graph.input[0].name
    _before(
        graph,
        helper.make_node("ReduceMean", [name], ["mean"], axes=[0]),
        helper.make_node("Sub", [name, "mean"], ["normalised"]),
    )


def _before(graph, *nodes):
    """Put nodes that make 'normalised' of the input before all others."""
    rest = [copy.deepcopy(node) for node in graph.node]
    for node in rest:
        node.input[:] = ["normalised" if x == graph.input[0].name else x for x in node.input]
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


@pytest.mark.parametrize("edit", [_normalised_by_the_batch, _centred_over_the_batch])
def test_what_was_exported_in_training_mode_is_told_so(ours, tmp_path, checkpoint, edit):
    proof = pipeline.verify(checkpoint, foreign(ours, tmp_path / "a.onnx", edit))
    assert any(batch.failures for batch in proof.batches)
    with pytest.raises(VerificationError, match=r"parts from the original first at") as caught:
        proof.raise_if_failed()
    certain = edit is _normalised_by_the_batch
    assert (
        "It was exported in training mode: 1 BatchNormalization" in str(caught.value)
    ) == certain
    assert "Images change each other's outputs" in str(caught.value)
    assert "export it after model.eval()" in str(caught.value)


def test_a_wrong_file_whose_images_are_on_their_own_is_not_said_to_be_in_training(
    ours, tmp_path, checkpoint
):
    proof = pipeline.verify(checkpoint, foreign(ours, tmp_path / "a.onnx", _scaled))
    assert not proof.passed
    assert "training" not in " ".join(proof.remarks)


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_types_are_refused_with_the_names(ours, tmp_path, elem_type):
    def cast(graph):
        name = graph.input[0].name
        _before(graph, helper.make_node("Cast", [name], ["normalised"], to=TensorProto.FLOAT))
        graph.input[0].type.tensor_type.elem_type = elem_type

    with pytest.raises(ArtifactError, match=r"'input': 'tensor\(.*Expected float32"):
        load_artifact(foreign(ours, tmp_path / "a.onnx", cast))


@pytest.mark.slow  # torch.onnx takes seconds
def test_torchs_own_export_is_proven(tmp_path):
    import torch

    from levit_deploy.bench.plain_export import plain_export

    path = tmp_path / "ckpt.pth"
    torch.save({"model": trained(TINY).state_dict()}, path)
    checkpoint = read_checkpoint(path, image_size=TINY.image_size)
    data = plain_export(checkpoint.model, (TINY.in_channels, *TINY.image_size))
    onnx.save(renamed(onnx.load_from_string(data), "input", "output"), tmp_path / "a.onnx")
    proof = pipeline.verify(checkpoint, tmp_path / "a.onnx")
    assert proof.passed
    assert len(proof.remarks) == 2


# --- several outputs ------------------------------------------------------------------------------


def test_feature_maps_keep_their_names_and_the_input_may_have_another(tmp_path, checkpoint):
    maps = ExportOptions(output="feature-maps", input_name="images")
    published = pipeline.export(checkpoint, "onnx", tmp_path / "a.onnx", options=maps)
    assert published.verification.passed
    assert end_names(onnx.load(tmp_path / "a.onnx")) == ["images", "stage1", "stage2", "stage3"]
    maps = ExportOptions(output="feature-maps", output_name="maps")
    with pytest.raises(UsageError, match="--output-name is for one output"):
        pipeline.export(checkpoint, "onnx", tmp_path / "b.onnx", options=maps)
    features = ExportOptions(output="features", output_name="embedding")
    pipeline.export(checkpoint, "onnx", tmp_path / "c.onnx", options=features)
    assert end_names(onnx.load(tmp_path / "c.onnx")) == ["pixel_values", "embedding"]
