"""A model in a repository of Triton's, held to Triton's own schema and to what the file takes."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import names_in, run
from google.protobuf import text_format
from networks import SHALLOW, trained

from levit_deploy.targets.load import load_artifact

schema = pytest.importorskip(
    "tritonclient.grpc.model_config_pb2",
    reason="Triton's schema is not installed: pip install 'tritonclient[grpc]'",
)
LABELS = tuple(f"bird no. {i}" for i in range(7))


@pytest.fixture
def folder(tmp_path):
    torch.save({"model": trained(SHALLOW).state_dict()}, tmp_path / "birds.pth")
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    (tmp_path / "models").mkdir()
    return tmp_path


def export(folder, *options):
    arguments = (folder / "birds.pth", "--triton", folder / "models", "-q", "--image-size", "64x96")
    return run("export", *arguments, *options)


def config_in(folder):
    text = (folder / "models" / "birds" / "config.pbtxt").read_text()
    return text_format.Parse(text, schema.ModelConfig())


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# what onnxruntime says of a tensor, and how the schema calls it
ONNX_TYPES = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8"}


BYTES = ("--input-type", "uint8", "--output-type", "probabilities")


@pytest.mark.parametrize(
    ("batch", "ends", "form"),
    [
        ("dynamic", (), "FORMAT_NCHW"),
        ("dynamic", BYTES, "FORMAT_NHWC"),
        ("1", (), "FORMAT_NONE"),
        ("4", BYTES, "FORMAT_NONE"),
        ("dynamic", ("--input-name", "images", "--output-name", "scores"), "FORMAT_NCHW"),
    ],
)
def test_the_configuration_is_the_onnx_files_own_interface(folder, batch, ends, form):
    options = ("--labels", folder / "labels.json", "--batch-size", batch, *ends)
    assert export(folder, *options) == (0, "", "")
    config = config_in(folder)
    model = folder / "models" / "birds" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert (config.platform, config.name) == ("onnxruntime_onnx", "")
    for ours, theirs in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [value.name for value in ours] == [value.name for value in theirs]
        assert schema.DataType.Name(ours[0].data_type) == ONNX_TYPES[theirs[0].type]
        shape = theirs[0].shape if batch != "dynamic" else theirs[0].shape[1:]
        assert list(ours[0].dims) == shape
    # Triton adds a batch where there is a largest one, and fills it only where it is told to
    assert config.max_batch_size == (16 if batch == "dynamic" else 0)
    assert config.HasField("dynamic_batching") == (batch == "dynamic")
    assert schema.ModelInput.Format.Name(config.input[0].format) == form
    # it would number the classes of four images through, from 0 to 27
    labelled = batch != "4"
    assert config.output[0].label_filename == ("labels.txt" if labelled else "")
    names = ["1/model.onnx", "config.pbtxt", *(["labels.txt"] if labelled else [])]
    assert files_in(folder / "models" / "birds") == names
    if labelled:
        text = (folder / "models" / "birds" / "labels.txt").read_text("utf-8")
        assert tuple(text.splitlines()) == LABELS
    assert run("verify", folder / "birds.pth", model, "-q", "--image-size", "64x96")[0] == 0


@pytest.mark.parametrize("batch", ["dynamic", "2"])
def test_every_feature_map_is_an_output(folder, batch):
    options = ("--output-type", "feature-maps", "--labels", folder / "labels.json")
    fixed = [] if batch == "dynamic" else [2]
    assert export(folder, *options, "--batch-size", batch) == (0, "", "")
    model = folder / "models" / "birds" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    outputs = config_in(folder).output
    shapes = [[12, 4, 6], [16, 2, 3]]
    assert [list(output.dims) for output in outputs] == [[*fixed, *shape] for shape in shapes]
    assert [output.name for output in outputs] == [o.name for o in session.get_outputs()]
    assert {output.label_filename for output in outputs} == {""}
    assert files_in(folder / "models" / "birds") == ["1/model.onnx", "config.pbtxt"]


@pytest.mark.slow
def test_maps_and_features_of_a_torchscript_program_go_by_place(folder):
    for output, shapes in (
        ("feature-maps", [[12, 4, 6], [16, 2, 3]]),
        ("features", [[16]]),
    ):
        options = ("--format", "torchscript", "--output-type", output, "--force")
        assert export(folder, *options) == (0, "", "")
        outputs = config_in(folder).output
        assert [list(output.dims) for output in outputs] == shapes
        names = [f"OUTPUT__{i}" for i in range(len(shapes))]
        assert [output.name for output in outputs] == names


@pytest.mark.slow
@pytest.mark.parametrize("takes", ["float32", "uint8"])
def test_a_torchscript_program_goes_by_the_places_of_its_values(folder, takes):
    assert export(folder, "--format", "torchscript", "--input-type", takes) == (0, "", "")
    config = config_in(folder)
    assert config.platform == "pytorch_libtorch"
    assert [value.name for value in config.input] == ["INPUT__0"]
    assert [value.name for value in config.output] == ["OUTPUT__0"]
    assert config.output[0].label_filename == ""
    assert files_in(folder / "models" / "birds") == ["1/model.pt", "config.pbtxt"]
    artifact = load_artifact(folder / "models" / "birds" / "1" / "model.pt")
    dtype = {"TYPE_FP32": np.float32, "TYPE_UINT8": np.uint8}[
        schema.DataType.Name(config.input[0].data_type)
    ]
    batch = np.ones((config.max_batch_size, *config.input[0].dims), dtype)
    assert artifact.run(batch).shape == (config.max_batch_size, *config.output[0].dims)


@pytest.mark.usefixtures("sabotaged_export")
def test_a_proof_that_fails_leaves_the_repository_as_it_was(folder):
    assert export(folder)[0] == 1
    assert names_in(folder / "models") == []


@pytest.mark.slow
def test_only_a_model_of_ours_is_replaced_and_only_with_force(folder):
    model = folder / "models" / "birds"
    assert export(folder)[0] == 0
    code, _, error = export(folder)
    assert code == 5
    assert "--force" in error
    assert "--triton" in error
    assert export(folder, "--format", "torchscript", "--force")[0] == 0
    assert files_in(model) == ["1/model.pt", "config.pbtxt"]
    (model / "2").mkdir()  # a version that somebody added
    assert "did not write" in export(folder, "--force")[2]
    (model / "2").rmdir()
    (model / "config.pbtxt").write_text('platform: "pytorch_libtorch"\n')
    assert "did not write" in export(folder, "--force")[2]
    assert names_in(folder / "models") == ["birds"]


def test_what_makes_no_sense_is_refused_before_anything_runs(folder):
    for options, code, reason in (
        (("-o", folder / "birds.onnx"), 2, "-o were both given"),
        (("--json", folder / "models" / "birds" / "report.json"), 5, "does not exist"),
        (("--triton", folder / "nowhere"), 5, "Create it, or name another with --triton"),
        (("--triton", folder / "labels.json"), 5, "--triton"),
    ):
        found = export(folder, *options)
        assert found[:2] == (code, "")
        assert reason in found[2]
    (folder / "models" / "birds").mkdir()  # an empty one is as good as none
    code, _, error = export(folder, "--json", folder / "models" / "birds" / "report.json")
    assert (code, "Name a file in another folder" in error) == (2, True)
    assert export(folder, "--json", folder / "report.json")[0] == 0
    path = json.loads((folder / "report.json").read_text())["path"]
    assert path == str(folder / "models" / "birds" / "1" / "model.onnx")
