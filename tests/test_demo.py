import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from test_cli import run

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.demo import read_demo_checkpoint
from levit_deploy.demo.digits import MEAN, STD, held_out, to_input
from levit_deploy.runtime.artifact import load_artifact

FILES = ["digits.fused.safetensors", "digits.onnx", "digits.pth", "digits.torchscript.pt"]
ALL = [*FILES, "scans"]


@pytest.mark.slow
def test_the_demo_does_the_whole_job(tmp_path):
    folder = tmp_path / "new" / "folder"
    code, out, _ = run("demo", folder)
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == ALL
    assert out.count("proven") == 24  # three artifacts: seven kinds of input, and all together
    assert "held-out" in out
    digits = held_out()
    top1 = (
        load_artifact(folder / "digits.onnx").run(digits.images).argmax(1) == digits.labels
    ).mean()
    assert out.count(f"{top1:.2%}".replace("%", " %")) == 4  # the original and three artifacts

    # the scans are there as pictures, which every file knows how to prepare and to name
    for name in ("digits.onnx", "digits.torchscript.pt"):
        code, out, _ = run("evaluate", folder / name, folder / "scans", "--json", "-")
        assert json.loads(out)["top1"] == top1 * 100
    code, out, _ = run("predict", folder / "digits.onnx", folder / "scans" / "seven" / "004.png")
    assert "seven" in out

    # again, over its own files, for a machine
    assert run("demo", folder)[0] == 5
    code, out, _ = run("demo", folder, "--force", "--json", "-")
    data = json.loads(out)
    assert code == 0
    assert [row["name"] for row in data["comparison"]] == ["original", *FILES[:2], FILES[3]]
    assert {row["top1"] for row in data["comparison"]} == {top1 * 100}
    for row in data["comparison"][1:]:
        assert 0 < row["max_error"] <= row["allowed"]


def test_the_embedded_network_was_trained(tmp_path):
    checkpoint = read_demo_checkpoint(tmp_path)
    digits = held_out()
    with torch.inference_mode():
        answers = checkpoint.model.double()(torch.from_numpy(digits.images).double()).argmax(1)
    assert (answers.numpy() == digits.labels).mean() > 0.99
    assert checkpoint.path.stat().st_size < 1_000_000


def test_the_held_out_scans_are_real_ones():
    digits = load_digits()
    label_of = {
        image.tobytes(): label
        for image, label in zip(
            to_input(digits.images.astype(np.uint8)), digits.target, strict=True
        )
    }
    ours = held_out()
    assert ours.labels.tolist() == [label_of[image.tobytes()] for image in ours.images]
    assert len({image.tobytes() for image in ours.images}) == 360


def test_the_normalisation_is_that_of_the_scans():
    pixels = load_digits().images / 16
    np.testing.assert_allclose((pixels.mean(), pixels.std()), (MEAN, STD), atol=1e-3)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = run("demo", tmp_path / "file")
    assert code == 5
    assert "could not be written" in err


def test_read_demo_checkpoint_is_an_ordinary_checkpoint(tmp_path):
    checkpoint = read_demo_checkpoint(tmp_path)
    assert read_checkpoint(checkpoint.path).sha256 == checkpoint.sha256
    assert checkpoint.family == "official"
    assert checkpoint.config.distillation
