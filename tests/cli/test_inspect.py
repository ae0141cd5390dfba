"""``levit-deploy inspect`` as its user meets it."""

import json

import torch
from command_line import loaded_by, run
from networks import GOLDENS, trained


def test_inspect_reads_like_a_data_sheet(folder):
    code, out, _ = run("inspect", folder / "ckpt.pth")
    assert code == 0
    for fact in ("official", "custom", "3 x 64 x 96", "7", "2 (class and distillation)", "assumed"):
        assert fact in out
    assert "stage 3" in out
    assert "12 > 16" in out
    assert "crop 0.875, bicubic, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, assumed" in out


def test_inspect_loads_no_runtime_and_no_compiler(folder):
    code = "from typer.testing import CliRunner; from levit_deploy.cli import app; "
    code += f"print(CliRunner().invoke(app, ['inspect', {str(folder / 'ckpt.pth')!r}]).exit_code)"
    assert loaded_by(code) == ("0\n", "['torch', 'numpy', 'PIL', 'rich']")


def test_inspect_as_json(folder):
    code, out, _ = run("inspect", folder / "ckpt.pth", "--json", "-")
    data = json.loads(out)
    assert code == 0
    assert data["family"] == "official"
    assert data["config"]["stages"][1]["num_heads"] == 2
    assert data["resolutions"] == [[4, 6], [2, 3], [1, 2]]
    assert data["parameters"] == sum(p.numel() for p in trained().parameters())
    assert len(data["sha256"]) == 64
    assert any("eps" in assumption for assumption in data["assumed"])


def test_the_data_sheet_of_another_implementation():
    _, out, _ = run("inspect", GOLDENS / "vit-pytorch" / "checkpoint.pth")
    words = " ".join(out.split())
    assert "activation hardswish" in words
    assert "activation, stem none" in words
    assert "activation, attention gelu" in words
    assert "normalisation BatchNorm in attention only" in words
    assert "the mean of both heads" in words


def test_the_data_sheet_of_a_network_without_a_head(tmp_path):
    state = {k: t for k, t in trained().state_dict().items() if not k.startswith("head")}
    torch.save(state, tmp_path / "ckpt.pth")
    _, out, _ = run("inspect", tmp_path / "ckpt.pth")
    words = " ".join(out.split())
    assert "classes none heads no head: --output-type features" in words
