"""What a command takes, and what it never writes over."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import names_in, run
from PIL import Image

from levit_deploy.publish.naming import beside


@pytest.mark.slow
def test_outputs_go_beside_the_checkpoint_by_default(folder):
    assert run("fuse", folder / "ckpt.pth")[0] == 0
    assert run("export", folder / "ckpt.pth")[0] == 0
    assert run("export", folder / "ckpt.pth", "--format", "torchscript")[0] == 0
    assert names_in(folder) == [
        "ckpt.fused.safetensors",
        "ckpt.onnx",
        "ckpt.pth",
        "ckpt.torchscript.pt",
    ]


@pytest.mark.parametrize(
    ("checkpoint", "artifact"),
    [
        ("model_best.pth.tar", "model_best.onnx"),
        ("last.ckpt.zip", "last.onnx"),
        ("levit.v1.pth", "levit.v1.onnx"),
        ("levit_256", "levit_256.onnx"),
        (".pth", ".pth.onnx"),
    ],
)
def test_no_suffix_of_a_checkpoint_is_left_in_the_names_of_its_artifacts(checkpoint, artifact):
    assert beside(Path("runs") / checkpoint, ".onnx") == Path("runs") / artifact


@pytest.mark.slow
def test_the_artifacts_of_a_folder_go_beside_it(hub):
    before = names_in(hub)
    assert run("export", hub)[0] == 0
    assert run("fuse", f"{hub}/")[0] == 0
    assert names_in(hub.parent) == ["levit.v1", "levit.v1.fused.safetensors", "levit.v1.onnx"]
    assert names_in(hub) == before
    assert run("verify", hub, hub.parent / "levit.v1.onnx")[0] == 0


def test_the_folder_one_stands_in_is_a_checkpoint_too(hub, monkeypatch):
    monkeypatch.chdir(hub)
    assert run("export", ".")[0] == 0
    assert names_in(hub.parent) == ["levit.v1", "levit.v1.onnx"]


def test_no_file_of_a_folder_is_overwritten(hub):
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        before = (hub / name).read_bytes()
        code, _, err = run("export", hub, "-o", hub / name, "--force")
        assert code == 5
        assert "own files" in err
        assert (hub / name).read_bytes() == before
    code, _, err = run("inspect", hub, "--json", hub / "config.json", "--force")
    assert code == 5
    assert "own files" in err


@pytest.mark.parametrize("name", ["pics/odd.png", "pics/deep/ODD.PNG", "pics/../pics/odd.png"])
def test_no_picture_is_overwritten(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    (folder / "pics" / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / name)
    before = (folder / name).read_bytes()
    for command in (
        ("verify", "ckpt.pth", "ckpt.pth", "--json", name),
        ("fuse", "ckpt.pth", "-o", name),
        ("export", "ckpt.pth", "-o", name),
        ("export", "ckpt.pth", "--json", name),
    ):
        code, _, err = run(*command, "--images", "pics", "--force")
        assert (code, (folder / name).read_bytes()) == (5, before)
        assert "own files" in err
    assert names_in(folder) == ["ckpt.pth", "pics"]


def test_what_is_no_picture_may_be_written_among_them(folder, photos):
    written = photos / "report.json"
    for _ in range(2):  # the second time it exists
        command = ("fuse", folder / "ckpt.pth", "--images", photos, "--json", written, "--force")
        assert run(*command)[0] == 0
    assert json.loads(written.read_text())["verification"]["passed"] is True


def test_bad_destinations_are_refused(folder):
    (folder / "old.onnx").write_bytes(b"old")
    path = folder / "ckpt.pth"
    for output, expected in (
        (folder / "no" / "folder" / "out.onnx", "does not exist"),
        (folder / "old.onnx", "--force"),
        (folder, "is a folder"),
        (path, "own files"),
    ):
        code, _, err = run("export", path, "-o", output)
        assert code == 5
        assert expected in err
    assert (folder / "old.onnx").read_bytes() == b"old"
    assert names_in(folder) == ["ckpt.pth", "old.onnx"]
    assert run("export", path, "-o", folder / "old.onnx", "--force")[0] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere", "Expected an existing folder"),
        ("ckpt.pth", "ckpt.pth is a file. Expected a folder"),
        ("empty", "has no pictures in it"),
        ("broken", "a.jpg cannot be read as a picture"),
    ],
)
def test_a_folder_without_whole_pictures_is_refused(folder, name, expected):
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.jpg").write_text("no picture")
    path, artifact = folder / "ckpt.pth", folder / "ckpt.pth"
    for command in (("export", path), ("fuse", path), ("verify", path, artifact)):
        code, out, err = run(*command, "--images", folder / name)
        assert (code, out) == (3, "")
        assert expected in err
        assert len(err.strip().splitlines()) == 1
    assert names_in(folder) == ["broken", "ckpt.pth", "empty"]


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--images", "nowhere"], 3), (["--images", ".", "--json", "a.png", "--force"], 5)],
)
def test_paths_are_refused_before_torch_is_imported(folder, monkeypatch, options, code):
    monkeypatch.chdir(folder)
    (folder / "a.png").touch()
    script = (
        "import sys; from typer.testing import CliRunner; from levit_deploy.cli import app;"
        f"assert CliRunner().invoke(app, ['export', 'ckpt.pth', *{options}]).exit_code == {code};"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
