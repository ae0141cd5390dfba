"""``levit-deploy demo`` does the whole job, and overwrites nothing."""

import json

import pytest
import torch
from command_line import run
from PIL import Image

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.demo import demonstration
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import Digits, held_out
from levit_deploy.targets.load import load_artifact

FILES = ["digits.fused.safetensors", "digits.onnx", "digits.pth", "digits.torchscript.pt"]
ALL = [*FILES, "scans"]


@pytest.mark.slow
def test_the_demo_does_the_whole_job(tmp_path, monkeypatch):
    digits = held_out()
    some = slice(220, 260)  # the proofs and the table are of these, as all take long
    few = Digits(digits.images[some], digits.labels[some])
    monkeypatch.setattr(demonstration, "held_out", lambda: few)
    folder = tmp_path / "new" / "folder"
    code, out, _ = run("demo", folder)
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == ALL
    assert out.count("proven") == 27  # three artifacts: seven inputs, together, the verdict
    assert "held-out" in out
    right = load_artifact(folder / "digits.onnx").run(digits.images).argmax(1) == digits.labels
    assert not right[some].all()
    percent = 100 * right[some].mean()
    assert out.count(f"{percent:.2f} %") == 4  # the original and three artifacts

    # the scans are there as pictures, which every file knows how to prepare and to name
    for name in ("digits.onnx", "digits.torchscript.pt"):
        code, out, _ = run("evaluate", folder / name, folder / "scans", "--json", "-")
        assert json.loads(out)["top1"] == pytest.approx(100 * right.mean())
    code, out, _ = run("predict", folder / "digits.onnx", folder / "scans" / "seven" / "004.png")
    assert "seven" in out

    # again, over its own files, for a machine
    code, out, err = run("demo", folder)
    assert (code, out) == (5, "")
    assert "digits.fused.safetensors exists already. Name another DIRECTORY" in err
    code, out, _ = run("demo", folder, "--force", "--json", "-")
    data = json.loads(out)
    assert code == 0
    assert [row["name"] for row in data["comparison"]] == ["original", *FILES[:2], FILES[3]]
    assert {row["top1"] for row in data["comparison"]} == {percent}
    for row in data["comparison"][1:]:
        assert 0 < row["max_error"] <= row["allowed"]


def test_the_embedded_network_was_trained(tmp_path):
    checkpoint = read_demo_checkpoint(tmp_path)
    digits = held_out()
    with torch.inference_mode():
        answers = checkpoint.model.double()(torch.from_numpy(digits.images).double()).argmax(1)
    assert (answers.numpy() == digits.labels).mean() > 0.99
    assert checkpoint.path.stat().st_size < 1_000_000


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = run("demo", tmp_path / "file")
    assert code == 5
    assert "could not be written" in err


@pytest.mark.parametrize("name", ["digits.pth", "scans/one/016.png", "digits.torchscript.pt"])
def test_a_file_that_is_in_the_way_is_refused_before_anything_is_written(tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("demo", tmp_path)
    assert (code, out) == (5, "")
    assert f"{mine} exists already. Name another DIRECTORY, or add --force" in err
    assert mine.read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == before


def test_the_report_must_not_replace_what_the_demo_writes(tmp_path):
    for name in ("digits.onnx", "digits.pth", "scans/one/016.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        code, _, err = run("demo", tmp_path, "--json", tmp_path / name, "--force")
        assert (code, "Name another file with --json" in err) == (5, True)
        assert not (tmp_path / "digits.pth").exists()


def test_with_force_it_is_replaced_but_never_through_a_link(tmp_path):
    scan, others = tmp_path / "scans" / "one" / "016.png", tmp_path / "others.png"
    scan.parent.mkdir(parents=True)
    scan.write_text("mine")
    read_demo_checkpoint(tmp_path, force=True)
    with Image.open(scan) as picture:
        assert picture.size == (8, 8)
    scan.unlink()
    others.write_text("others")
    scan.symlink_to(others)
    code, _, err = run("demo", tmp_path, "--force")
    assert code == 5
    assert "is a link" in err
    assert others.read_text() == "others"


def test_the_demos_own_files_are_left_as_they_are(tmp_path):
    before = read_demo_checkpoint(tmp_path).path.stat()
    after = read_demo_checkpoint(tmp_path, force=True).path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_read_demo_checkpoint_is_an_ordinary_checkpoint(tmp_path):
    checkpoint = read_demo_checkpoint(tmp_path)
    assert read_checkpoint(checkpoint.path).sha256 == checkpoint.sha256
    assert checkpoint.family == "official"
    assert checkpoint.config.distillation
