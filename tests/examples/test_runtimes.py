"""Runtimes that are not ours run an artifact unchanged, each by its script in examples/."""

import subprocess
import sys

import numpy as np
import pytest
from example_scripts import (
    EXAMPLES,
    NETWORKS,
    TOLD,
    check_images,
    check_probabilities,
    here,
    printed_by,
    script,
    serialised,
)

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.pipeline import export
from levit_deploy.targets.target import ExportOptions


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", ["spatial", "attention"])
@pytest.mark.parametrize(
    ("name", "module"),
    [("run_openvino.py", "openvino"), ("run_opencv.py", "cv2"), ("run_reference.py", "onnx")],
)
def test_a_python_runtime_computes_the_original_s_logits(files, name, module, form, network):
    pytest.importorskip(module, reason=f"the runtime of {name} is not installed")
    printed = script(name, files / f"{network}.{form}", files / f"{network}.npy")
    check_images(printed, files, network)


@pytest.mark.node
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", ["spatial", "attention"])
def test_node_computes_the_original_s_logits(node, files, form, network):
    arguments = files / f"{network}.{form}", files / f"{network}.npy"
    check_images(printed_by(node, EXAMPLES / "node" / "run.mjs", *arguments), files, network)


@pytest.mark.parametrize(
    "name",
    [
        *("run_openvino.py", "run_opencv.py", "run_reference.py"),
        pytest.param("node/run.mjs", marks=pytest.mark.node),
    ],
)
def test_a_runtime_takes_bytes_and_gives_probabilities(request, files, tmp_path, name):
    interpreter = sys.executable
    if name.endswith(".mjs"):
        interpreter = request.getfixturevalue("node")
    elif name != "run_reference.py":
        pytest.importorskip(name[4:-3].replace("opencv", "cv2"))
    checkpoint = read_checkpoint(files / "small.pth", preprocessing=TOLD)
    options = ExportOptions(input="uint8", output="probabilities")
    (tmp_path / "x.onnx").write_bytes(serialised("onnx", checkpoint, options))
    pixels = np.random.default_rng(5).integers(0, 256, (3, 64, 96, 3), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    printed = printed_by(interpreter, EXAMPLES / name, tmp_path / "x.onnx", tmp_path / "x.npy")
    check_probabilities(printed, checkpoint, pixels)


@pytest.mark.node
def test_node_says_how_to_call_it(node):
    done = subprocess.run([node, EXAMPLES / "node" / "run.mjs"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "Usage: node run.mjs ARTIFACT.onnx IMAGES.npy\n")


@pytest.mark.slow
def test_verify_in_runtimes_proves_a_right_artifact_and_refuses_a_wrong_one(files, tmp_path):
    import onnx

    model = onnx.load(files / "small.spatial")
    weight = next(w for w in model.graph.initializer if w.name == "head.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] += 0.1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "head.weight"))
    onnx.save(model, tmp_path / "wrong.onnx")
    artifacts = (files / "small.spatial", tmp_path / "wrong.onnx")
    printed, code = here("verify_in_runtimes.py", files / "small.pth", *artifacts)
    assert code == 1
    lines = {name: [] for name in ("small.spatial", "wrong.onnx")}
    for line in printed.splitlines():
        lines[line.split()[0]].append(line)
    assert "onnx.reference" in printed
    assert len(lines["small.spatial"]) == len(lines["wrong.onnx"]) > 0
    assert all(line.endswith("proven") for line in lines["small.spatial"])
    assert all(line.endswith("FAILED") for line in lines["wrong.onnx"])


@pytest.mark.slow
def test_verify_in_runtimes_holds_an_artifact_to_what_it_says_of_itself(files, tmp_path):
    path = tmp_path / "class.onnx"
    options = ExportOptions(input="uint8", output="probabilities")
    checkpoint = read_checkpoint(files / "small.pth", preprocessing=TOLD)
    export(checkpoint, "onnx", path, head="class", options=options)
    arguments = (files / "small.pth", path, "--preprocessing", TOLD)
    printed, code = here("verify_in_runtimes.py", *arguments)
    assert code == 0
    assert "onnx.reference" in printed
    assert all(line.endswith("proven") for line in printed.splitlines())


@pytest.mark.slow
def test_verify_in_runtimes_does_not_succeed_where_it_proves_nothing(files):
    artifact = files / "small.torchscript"  # without the program for it
    printed, code = here("verify_in_runtimes.py", files / "small.pth", artifact)
    assert code == 1
    assert "is not proven: no other runtime for torchscript was found" in printed
