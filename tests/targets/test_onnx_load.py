"""ONNX files in either runtime: which one runs a file, and that it is that one."""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import SMALL, float64_logits, images, trained

import levit_deploy
from levit_deploy.errors import ArtifactError, BackendError, UsageError, VerificationError
from levit_deploy.provenance import Provenance
from levit_deploy.publish.triton import TritonModel
from levit_deploy.runtime import sessions
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx_ends import renamed
from levit_deploy.targets.target import ExportOptions

# OpenVINO 2026.4 crashes on tokens of a smaller image, if the processor has AVX2 and no more.
LARGER = SMALL.replace(image_size=(96, 128))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder with a checkpoint, and its artifact for OpenVINO; not to be changed."""
    folder = tmp_path_factory.mktemp("openvino")
    torch.save({"model": trained(LARGER).state_dict()}, folder / "ckpt.pth")
    return folder


@pytest.fixture(scope="module")
def checkpoint(written):
    return levit_deploy.load(written / "ckpt.pth", image_size=LARGER.image_size)


@pytest.fixture(scope="module")
def for_openvino(written, checkpoint):
    export = partial(levit_deploy.export, checkpoint, "onnx", written / "ov.onnx")
    return export(runtime="openvino").path


@pytest.fixture
def without_onnxruntime(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("onnxruntime was asked")

    monkeypatch.setattr(sessions, "onnx_session", refuse)


@pytest.fixture
def without_openvino(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else found(name)
    )


def test_a_file_for_openvino_takes_tokens_one_at_a_time(for_openvino):
    artifact = load_artifact(for_openvino)
    assert (artifact.runtime, artifact.batch_size) == ("openvino", 1)
    assert Provenance.from_metadata(artifact.metadata).runtime == "openvino"
    assert artifact.metadata["layout"] == "tokens"


@pytest.mark.usefixtures("without_onnxruntime")
def test_openvino_itself_computes_the_checkpoints_function(for_openvino):
    x = images(LARGER, n=4)
    logits = np.concatenate([load_artifact(for_openvino).run(x[i : i + 1].numpy()) for i in (2, 3)])
    expected = float64_logits(trained(LARGER), x)[2:]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.isolated
def test_the_runtime_that_a_file_is_for_proves_it_in_a_process_of_its_own(written, checkpoint):
    path = written / "isolated.onnx"
    options = ExportOptions(batch_size="dynamic")
    published = levit_deploy.export(checkpoint, "onnx", path, runtime="openvino", options=options)
    assert (published.verification.runtime, published.layout) == ("openvino", "tokens")
    assert levit_deploy.verify(checkpoint, path).runtime == "openvino"
    assert load_artifact(path).batch_size is None


def test_verify_runs_any_onnx_file_in_the_runtime_that_you_name(checkpoint, for_openvino, tmp_path):
    assert levit_deploy.verify(checkpoint, for_openvino).runtime == "openvino"
    assert levit_deploy.verify(checkpoint, for_openvino, runtime="onnxruntime").passed
    path = tmp_path / "usual.onnx"
    levit_deploy.export(checkpoint, "onnx", path)
    assert levit_deploy.verify(checkpoint, path).runtime == "onnxruntime"
    theirs = renamed(onnx.load(path), "input", "scores")
    del theirs.metadata_props[:]
    onnx.save(theirs, tmp_path / "theirs.onnx")
    proof = levit_deploy.verify(checkpoint, tmp_path / "theirs.onnx", runtime="openvino")
    assert (proof.runtime, proof.passed) == ("openvino", True)
    assert "The output was taken by place: scores." in proof.remarks


def test_what_openvino_computes_is_held_to_the_checkpoint(checkpoint, for_openvino, tmp_path):
    model = onnx.load(for_openvino)
    bias = next(w for w in model.graph.initializer if w.name == "head.bias")
    changed = onnx.numpy_helper.to_array(bias).copy()
    changed[3] += 0.01
    bias.CopyFrom(onnx.numpy_helper.from_array(changed, bias.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(VerificationError, match="first at head"):
        levit_deploy.verify(checkpoint, tmp_path / "wrong.onnx").raise_if_failed()


def test_openvino_names_itself_if_it_cannot_load_or_run_a_file(for_openvino, tmp_path):
    artifact = load_artifact(for_openvino)
    with pytest.raises(BackendError, match="openvino failed to run") as caught:
        artifact.run(images(LARGER, n=2).numpy())
    assert "\n" not in str(caught.value)
    model = onnx.load(for_openvino)
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match=r"cannot be loaded by openvino: .*NoSuchOperator"):
        load_artifact(tmp_path / "a.onnx")


def test_a_runtime_of_a_later_version_is_refused(for_openvino, tmp_path):
    model = onnx.load(for_openvino)
    next(entry for entry in model.metadata_props if entry.key == "runtime").value = "tract"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match=r"'tract'.* onnxruntime, openvino.* --runtime"):
        load_artifact(tmp_path / "a.onnx")
    assert load_artifact(tmp_path / "a.onnx", runtime="onnxruntime").runtime == "onnxruntime"


@pytest.mark.usefixtures("without_openvino")
def test_a_missing_openvino_is_named_before_anything_is_done(checkpoint, for_openvino, tmp_path):
    line = r"needs openvino.* pip install .*\[openvino\]'"
    with pytest.raises(UsageError, match=line):
        levit_deploy.export(checkpoint, "onnx", tmp_path / "a.onnx", runtime="openvino")
    with pytest.raises(UsageError, match=line):
        levit_deploy.verify(checkpoint, for_openvino)
    assert levit_deploy.verify(checkpoint, for_openvino, runtime="onnxruntime").passed


def test_a_runtime_is_for_onnx_only(checkpoint, tmp_path):
    with pytest.raises(UsageError, match=r"--runtime openvino is for ONNX.* --format torchscript"):
        levit_deploy.export(checkpoint, "torchscript", tmp_path / "a.pt", runtime="openvino")
    fused = levit_deploy.fuse(checkpoint, tmp_path / "a.safetensors").path
    with pytest.raises(UsageError, match=r"for ONNX files.*: torch runs it"):
        levit_deploy.verify(checkpoint, fused, runtime="openvino")
    with pytest.raises(UsageError, match=r"'tract' is not one of onnxruntime, openvino"):
        levit_deploy.export(checkpoint, "onnx", tmp_path / "a.onnx", runtime="tract")


def test_optimum_and_triton_run_onnx_in_onnxruntime(checkpoint, tmp_path):
    for output in (f"{tmp_path}/out/", TritonModel(tmp_path, "model")):
        with pytest.raises(UsageError, match=r"--runtime openvino was given"):
            levit_deploy.export(checkpoint, "onnx", output, runtime="openvino")
    assert list(tmp_path.iterdir()) == []


def test_openvino_reports_nothing_home(for_openvino, tmp_path):
    program = (
        "import sys; from pathlib import Path; from levit_deploy.targets.load import load_artifact;"
        "sys.addaudithook(lambda event, _: event.startswith('socket') and print(event));"
        "load_artifact(Path(sys.argv[1]));"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, for_openvino],
        env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert not (tmp_path / "intel").exists()  # its own folder
