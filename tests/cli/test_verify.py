"""``levit-deploy verify`` as its user meets it."""

import hashlib
import importlib.metadata
import json

import onnx
import pytest
import torch
from command_line import run
from networks import trained


def test_the_evidence_as_json_is_whole(folder):
    path, artifact = folder / "ckpt.pth", folder / "ckpt.onnx"
    _, out, _ = run("export", path, "--json", "-")
    exported = json.loads(out)["verification"]
    code, out, _ = run("verify", path, artifact, "--json", "-")
    verified = json.loads(out)["verification"]
    assert code == 0
    for evidence in (exported, verified):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert evidence["checkpoint"] == {"path": str(path), "sha256": sha256}
        assert evidence["sha256"] == hashlib.sha256(artifact.read_bytes()).hexdigest()
        assert evidence["seed"] == 0
        assert evidence["versions"]["torch"] == importlib.metadata.version("torch")
        assert evidence["versions"].keys() >= {"levit-deploy", "python", "onnxruntime", "machine"}
        for case in evidence["cases"]:
            figures = [case["rmse"], case["max_error"], *case["budget"].values()]
            assert all(isinstance(figure, float) for figure in figures)
    again = "the same file as exported again, byte by byte"
    assert exported.pop("graph") is None
    assert verified.pop("graph") == {"same": True, "words": again, "advice": ""}
    assert exported == verified  # the same bytes, the same seed: the same figures
    _, out, _ = run("verify", path, artifact, "--activation", "silu", "--json", "-")
    assert json.loads(out)["verification"]["checkpoint"]["path"] == str(path)


@pytest.fixture
def other(folder):
    """A checkpoint of another network of the same shape."""
    torch.save({"model": trained(seed=3).state_dict()}, folder / "other.pth")
    return folder / "other.pth"


def test_verify_takes_pictures_too(folder, exported, other, photos):
    code, out, _ = run("verify", folder / "ckpt.pth", exported, "--images", photos, "--json", "-")
    case = json.loads(out)["verification"]["cases"][-1]
    assert code == 0
    assert (case["name"], case["images"], case["failures"]) == ("pictures", 3, [])
    code, out, err = run("verify", other, exported, "--images", photos)
    assert code == 1
    assert "on pictures: RMSE" in err


def test_a_failed_proof_exits_with_1_and_says_by_how_much(exported, other):
    code, out, err = run("verify", other, exported)
    assert code == 1
    assert out.count("FAILED") == 6
    assert "On normal: RMSE" in err
    code, out, _ = run("verify", other, exported, "--json", "-")
    assert code == 1
    assert json.loads(out)["verification"]["passed"] is False


def test_a_file_that_was_changed_after_its_export_is_refused(folder, exported):
    code, out, _ = run("verify", folder / "ckpt.pth", exported)
    assert code == 0
    assert "graph: the same file as exported again, byte by byte" in out
    model = onnx.load(exported)
    model.graph.initializer.add(name="more", data_type=onnx.TensorProto.FLOAT, float_data=[1])
    onnx.save(model, exported)
    page = folder / "proof.html"
    code, out, err = run("verify", folder / "ckpt.pth", exported, "--report", page)
    assert code == 1
    assert "graph: not as exported again: more is one more" in out
    assert "not the file that levit-deploy exports from this checkpoint: more is one more" in err
    assert "graph</th><td>not as exported again: more is one more</td>" in page.read_text()
    assert "is not the file that is exported from" in page.read_text()


def test_a_bad_artifact_is_refused(folder):
    (folder / "no.onnx").write_bytes(b"no graph")
    code, _, err = run("verify", folder / "ckpt.pth", folder / "no.onnx")
    assert code == 3
    assert "no.onnx" in err
