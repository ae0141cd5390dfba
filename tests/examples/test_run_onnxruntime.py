"""examples/run_onnxruntime.py classifies pictures with nothing of ours."""

import re
import subprocess
import sys

import numpy as np
import pytest
from example_scripts import (
    EXAMPLES,
    TOLD,
    check_top5,
    picture,
    script,
    serialised,
)
from PIL import Image
from prepared import prepare

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.targets.target import ExportOptions


@pytest.mark.parametrize("kind", ["colours", "tall", "grey", "palette", "turned by Exif"])
def test_onnxruntime_answers_pictures_with_nothing_of_ours(files, tmp_path, kind):
    network = "digits" if kind == "grey" else "small"
    checkpoint = read_checkpoint(files / f"{network}.pth")
    path, saved = picture(tmp_path, kind), tmp_path / "prepared.npy"
    source = (EXAMPLES / "run_onnxruntime.py").read_text()
    assert not re.search(r"^\s*(from|import) levit_deploy", source, re.MULTILINE)

    artifact = files / f"{network}.spatial"
    printed = script("run_onnxruntime.py", artifact, path, "--save", saved)
    with Image.open(path) as opened:
        x = prepare(opened, checkpoint.config, checkpoint.preprocessing)[None]
    np.testing.assert_array_equal(np.load(saved), x)
    check_top5(printed, checkpoint, path, x)


@pytest.mark.parametrize("fields", [{"truncated": True}, {}, {"resize": "stretch"}])
def test_it_crops_and_resizes_as_the_metadata_says(files, tmp_path, fields):
    import onnx

    model = onnx.load(files / "small.spatial")
    entry = next(entry for entry in model.metadata_props if entry.key == "preprocessing")
    how = Preprocessing(crop_fraction=0.9, **fields)
    entry.value = how.to_json()
    onnx.save(model, tmp_path / "small.onnx")
    path, saved = tmp_path / "odd.png", tmp_path / "prepared.npy"
    pixels = np.random.default_rng(5).integers(0, 256, (14, 49, 3), np.uint8)  # as 71 to 248.5
    Image.fromarray(pixels).save(path)
    script("run_onnxruntime.py", tmp_path / "small.onnx", path, "--save", saved)
    expected = prepare(Image.fromarray(pixels), read_checkpoint(files / "small.pth").config, how)
    np.testing.assert_array_equal(np.load(saved)[0], expected)


def test_a_way_to_resize_that_it_does_not_know_is_refused(files, tmp_path):
    import onnx

    model = onnx.load(files / "small.spatial")
    entry = next(entry for entry in model.metadata_props if entry.key == "preprocessing")
    entry.value = Preprocessing(resize="border").to_json()
    onnx.save(model, tmp_path / "small.onnx")
    command = [sys.executable, EXAMPLES / "run_onnxruntime.py", tmp_path / "small.onnx"]
    path = picture(tmp_path, "colours")
    done = subprocess.run([*command, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "'border'" in done.stderr


@pytest.mark.parametrize("output", ["features", "feature-maps"])
def test_an_artifact_without_classes_is_refused(files, tmp_path, output):
    import onnx

    model = onnx.load(files / "small.spatial")
    entry = next(entry for entry in model.metadata_props if entry.key == "output")
    entry.value = output
    onnx.save(model, tmp_path / "a.onnx")
    command = [sys.executable, EXAMPLES / "run_onnxruntime.py", tmp_path / "a.onnx"]
    path = picture(tmp_path, "colours")
    done = subprocess.run([*command, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"gives {output}, and no classes" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(output="probabilities"),
        ExportOptions(input="uint8"),
        ExportOptions(batch_size=3),
    ],
    ids=["probabilities", "bytes", "fixed batch"],
)
def test_onnxruntime_answers_pictures_by_any_interface(files, tmp_path, options):
    checkpoint = read_checkpoint(files / "small.pth", preprocessing=TOLD)
    (tmp_path / "x.onnx").write_bytes(serialised("onnx", checkpoint, options))
    path = picture(tmp_path, "colours")
    command = [sys.executable, "-W", "error", EXAMPLES / "run_onnxruntime.py", tmp_path / "x.onnx"]
    done = subprocess.run([*command, path], capture_output=True, text=True)
    assert done.stderr == ""  # nothing is assumed
    with Image.open(path) as opened:
        x = prepare(opened, checkpoint.config, checkpoint.preprocessing)[None]
    check_top5(done.stdout, checkpoint, path, x, logits=options.output == "logits")


def test_onnxruntime_says_that_it_is_assumed_how_pictures_are_prepared(files, tmp_path):
    command = [sys.executable, EXAMPLES / "run_onnxruntime.py", files / "small.spatial"]
    done = subprocess.run([*command, picture(tmp_path, "grey")], capture_output=True, text=True)
    assert "as for ImageNet" in done.stderr


def test_onnxruntime_s_answers_have_the_artifact_s_labels(files, tmp_path):
    import onnx

    model = onnx.load(files / "small.spatial")
    entry = model.metadata_props.add()
    entry.key, entry.value = "labels", '["a", "b", "c", "d", "e", "f", "great tit"]'
    onnx.save(model, tmp_path / "labelled.onnx")
    path = picture(tmp_path, "colours")
    arguments = ("run_onnxruntime.py", tmp_path / "labelled.onnx", path)
    named = [line.split(maxsplit=3)[-1] for line in script(*arguments).splitlines()[1:]]
    plain = script("run_onnxruntime.py", files / "small.spatial", path).splitlines()[1:]
    labels = ["a", "b", "c", "d", "e", "f", "great tit"]
    assert named == [labels[int(line.split()[-1])] for line in plain]
    entry.key, entry.value = "problem_type", "regression"
    onnx.save(model, tmp_path / "labelled.onnx")
    command = [sys.executable, EXAMPLES / arguments[0], *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 1)
    assert "not for one class of several" in done.stderr
