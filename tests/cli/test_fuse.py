"""``levit-deploy fuse`` as its user meets it."""

import json

import pytest
import torch
from command_line import run
from networks import SHALLOW, trained

from levit_deploy.checkpoint import read_checkpoint


def test_what_a_folder_says_of_pictures_is_kept_by_fuse(hub, photos):
    path = hub / "preprocessor_config.json"
    processor = json.loads(path.read_text())
    path.write_text(json.dumps(processor | {"image_mean": [0.5, 0.4, 0.3], "resample": 2}))
    code, out, _ = run("fuse", hub, "--images", photos)
    assert code == 0
    assert "pictures   3  " in out
    assert "assumed: pictures" not in out
    stated = read_checkpoint(hub).preprocessing
    assert (stated.mean, stated.interpolation) == ((0.5, 0.4, 0.3), "bilinear")
    assert read_checkpoint(hub.parent / "levit.v1.fused.safetensors").preprocessing == stated


def test_unsupported_preprocessing_is_refused_only_with_pictures(hub, photos):
    path = hub / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_center_crop": False}))
    code, _, err = run("fuse", hub, "--images", photos)
    assert code == 2
    assert "do_center_crop" in err
    assert run("fuse", hub)[0] == 0


@pytest.mark.slow
def test_the_head_survives_fuse(tmp_path):
    folder, path, fused = tmp_path, tmp_path / "ckpt.pth", tmp_path / "class.safetensors"
    torch.save(trained(SHALLOW).state_dict(), path)  # whose class head is proven by few images
    run("fuse", path, "--head", "class", "-o", fused)
    assert "held to the class head" in run("verify", path, fused)[1]
    run("export", fused, "-o", folder / "a.onnx")
    run("export", path, "--head", "class", "-o", folder / "b.onnx")
    run("export", path, "-o", folder / "mean.onnx")
    for checkpoint, artifact in ((path, "a.onnx"), (fused, "b.onnx")):
        code, out, _ = run("verify", checkpoint, folder / artifact)
        assert code == 0
        assert "held to the class head" in out
    code, _, err = run("verify", fused, folder / "mean.onnx")
    assert code == 3
    assert "'mean'" in err
