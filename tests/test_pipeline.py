"""From a file to a proven artifact."""

import json

import numpy as np
import pytest
import scans
import torch
from every_format import EVERY_FORMAT
from networks import SHALLOW, images, trained

import levit_deploy
from levit_deploy import pipeline
from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import (
    InputError,
    UsageError,
)
from levit_deploy.report import published_data, to_json
from levit_deploy.runtime.sessions import filled
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.target import ExportOptions


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    torch.save({"model": trained(SHALLOW).state_dict()}, tmp_path / "ckpt.pth")
    return read_checkpoint(tmp_path / "ckpt.pth")


@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_only_a_process_of_its_own_runs_an_artifact(tmp_path, checkpoint, no_children, format):
    output = tmp_path / "artifact"
    pipeline.export(checkpoint, format, output)
    assert len(no_children) == 1
    pipeline.verify(checkpoint, output)
    assert len(no_children) == 2


@pytest.mark.parametrize("format", EVERY_FORMAT)
@pytest.mark.parametrize(("head", "which"), [("class", 0), ("distill", 1)])
def test_one_head_alone(tmp_path, checkpoint, format, head, which):
    output = tmp_path / "artifact"
    pipeline.export(checkpoint, format, output, head=head)
    model = trained(SHALLOW)
    features = model.forward_features(images())
    expected = (model.head, model.head_dist)[which](features).detach().numpy()
    artifact = load_artifact(output)
    found = filled(artifact.run, artifact.batch_size)(images().numpy())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_the_artifact_says_where_it_comes_from(tmp_path, checkpoint, format):
    pipeline.export(checkpoint, format, tmp_path / format, layout="tokens")
    metadata = load_artifact(tmp_path / format).metadata
    assert metadata["checkpoint_sha256"] == checkpoint.sha256
    assert LeViTConfig.from_json(metadata["config"]) == SHALLOW
    assert (metadata["head"], metadata["layout"]) == ("mean", "tokens")
    assert metadata["tool"].startswith("levit-deploy ")


def test_a_fixed_batch_is_proven_at_that_batch(tmp_path, checkpoint):
    output = tmp_path / "out.onnx"
    pipeline.export(checkpoint, "onnx", output, options=ExportOptions(batch_size=5))
    artifact = load_artifact(output)
    assert artifact.batch_size == 5
    assert artifact.run(images(n=5).numpy()).shape == (5, 7)


def test_the_public_names_do_the_job(tmp_path, checkpoint):
    loaded = levit_deploy.load(str(checkpoint.path))
    published = levit_deploy.export(loaded, "onnx", str(tmp_path / "out.onnx"))
    levit_deploy.fuse(loaded, tmp_path / "out.safetensors")
    assert levit_deploy.verify(loaded, published.path).passed
    fixed = levit_deploy.ExportOptions(batch_size=2)
    levit_deploy.export(loaded, "onnx", tmp_path / "fixed.onnx", options=fixed)
    with pytest.raises(levit_deploy.LevitDeployError):
        levit_deploy.load(tmp_path / "nothing.pth")


def test_a_path_stands_for_its_checkpoint(tmp_path, checkpoint):
    path, output = str(checkpoint.path), tmp_path / "out.onnx"
    assert levit_deploy.export(path, "onnx", output).verification.passed
    assert levit_deploy.verify(checkpoint.path, output).passed
    levit_deploy.fuse(path, tmp_path / "out.safetensors")
    with pytest.raises(InputError, match="scans is not a folder"):
        levit_deploy.quantize(path, tmp_path / "int8.onnx", "scans")
    with pytest.raises(UsageError, match="type int is not a checkpoint"):
        levit_deploy.fuse(3, tmp_path / "other.safetensors")


def test_a_module_and_its_state_dict_stand_for_their_checkpoint(tmp_path, checkpoint):
    model, output = checkpoint.model.train(), tmp_path / "out.onnx"
    published = levit_deploy.export(model, "onnx", output)
    assert published.verification.passed
    levit_deploy.fuse(model.state_dict(), tmp_path / "out.safetensors")
    assert model.training
    for original in (model, model.state_dict(), checkpoint.path):
        assert levit_deploy.verify(original, output).passed
    assert load_artifact(output).metadata["checkpoint_sha256"] == levit_deploy.load(model).sha256
    with pytest.raises(UsageError, match="the LeViT is in the layout of official"):
        levit_deploy.export(model, "onnx", f"{tmp_path / 'folder'}/")


def test_a_proof_takes_pictures_as_the_command_line_does(tmp_path, checkpoint):
    folder, output = scans.save_scans(tmp_path / "scans", 3), tmp_path / "out.onnx"
    for found in (
        pipeline.export(checkpoint, "onnx", output, images=str(folder)).verification,
        pipeline.fuse(checkpoint, tmp_path / "out.safetensors", images=folder).verification,
        pipeline.verify(checkpoint, output, images=folder),
    ):
        assert [(case.name, case.images) for case in found.cases][-1] == ("pictures", 3)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        pipeline.verify(checkpoint, output, images=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("layout", "options"),
    [("tokens", ExportOptions(opset=23)), ("spatial", ExportOptions(batch_size=3))],
)
def test_float16_with_other_options(tmp_path, checkpoint, layout, options):
    output = tmp_path / "out.onnx"
    export = {"precision": "fp16", "layout": layout, "options": options}
    published = pipeline.export(checkpoint, "onnx", output, **export)
    assert published.verification.passed


def test_the_evidence_is_plain_data(tmp_path, checkpoint):
    published = pipeline.export(checkpoint, "onnx", tmp_path / "out.onnx")
    data = json.loads(to_json(published_data(published)))
    assert data["verification"]["passed"] is True
    kinds = {case["name"] for case in data["verification"]["cases"]}
    assert kinds == {"normal", "zeros", "constant", "pixels", "large", "tiny"}
    assert {batch["size"] for batch in data["verification"]["batches"]} == {2, 3, 4, 5, 7, 8, 17}
    assert data["facts"]["opset"] == 17
