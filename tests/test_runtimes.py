"""Runtimes that are not ours run an artifact unchanged, each by its script in examples/.

What a script prints is held to the budget of the proof, against the original in float64.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import GOLDENS, float64_logits, images, trained
from PIL import Image

from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.demo import read_demo_checkpoint
from levit_deploy.demo.digits import held_out
from levit_deploy.exporters import EXPORTERS, ExportOptions
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.preparing import prepare
from levit_deploy.preprocessing import Preprocessing
from levit_deploy.provenance import Provenance
from levit_deploy.verification.budget import budget, rms

EXAMPLES = Path(__file__).parent.parent / "examples"
NODE_PACKAGE = EXAMPLES / "node" / "node_modules" / "onnxruntime-node"
NETWORKS = ("small", "digits")
FORMS = {
    "spatial": ("onnx", "spatial", None),
    "attention": ("onnx", "tokens", 23),
    "torchscript": ("torchscript", "tokens", None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Both networks in every form, and images for each."""
    folder = tmp_path_factory.mktemp("runtimes")
    torch.save(trained().state_dict(), folder / "small.pth")
    read_demo_checkpoint(folder)
    np.save(folder / "small.npy", images(n=8).numpy())
    np.save(folder / "digits.npy", held_out().images[:8])
    for network in NETWORKS:
        checkpoint = read_checkpoint(folder / f"{network}.pth")
        for name, (format, layout, opset) in FORMS.items():
            model = to_plain(checkpoint.model)
            model = to_spatial(model) if layout == "spatial" else model
            provenance = Provenance(checkpoint.sha256, checkpoint.config, "mean", layout)
            data = EXPORTERS[format].serialize(model, provenance, ExportOptions(opset))
            (folder / f"{network}.{name}").write_bytes(data)
    return folder


def printed_by(*command) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def script(name, *arguments) -> str:
    return printed_by(sys.executable, "-W", "error", EXAMPLES / name, *arguments)


def check_logits(printed: str, model: torch.nn.Module, x: np.ndarray) -> None:
    found = np.array([line.split() for line in printed.splitlines()], np.float64)
    expected = float64_logits(model, torch.from_numpy(x))
    with torch.inference_mode():
        allowed = budget([model(torch.from_numpy(x)).numpy()], expected)
    assert found.shape == expected.shape
    assert rms(found - expected) <= allowed.rmse
    assert np.abs(found - expected).max() <= allowed.max_error


def check_images(printed: str, folder: Path, network: str) -> None:
    model = read_checkpoint(folder / f"{network}.pth").model
    check_logits(printed, model, np.load(folder / f"{network}.npy"))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", ["spatial", "attention"])
@pytest.mark.parametrize(
    ("name", "module"),
    [("run_openvino.py", "openvino"), ("run_opencv.py", "cv2"), ("run_reference.py", "onnx")],
)
def test_a_python_runtime_computes_the_original_s_logits(folder, name, module, form, network):
    pytest.importorskip(module, reason=f"the runtime of {name} is not installed")
    printed = script(name, folder / f"{network}.{form}", folder / f"{network}.npy")
    check_images(printed, folder, network)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("form", ["spatial", "attention"])
def test_node_computes_the_original_s_logits(folder, form, network):
    node = shutil.which("node")
    if node is None or not NODE_PACKAGE.is_dir():
        pytest.skip("onnxruntime-node is not installed: npm install --ignore-scripts")
    arguments = folder / f"{network}.{form}", folder / f"{network}.npy"
    check_images(printed_by(node, EXAMPLES / "node" / "run.mjs", *arguments), folder, network)


def test_a_folder_of_transformers_runs_in_node(tmp_path):
    if shutil.which("node") is None or not NODE_PACKAGE.is_dir():
        pytest.skip("onnxruntime-node is not installed: npm install --ignore-scripts")
    checkpoint = GOLDENS / "transformers"
    arguments = (checkpoint, "-o", tmp_path / "levit.onnx")
    printed = script("transformers_to_node.py", *arguments)
    check_both_answers(printed, "Node", read_checkpoint(checkpoint))


def check_both_answers(printed: str, runtime: str, checkpoint: Checkpoint) -> None:
    """Both name the class that the original does in float64, and give its logit."""
    *lines, last = printed.splitlines()
    form = rf"image \d: PyTorch class (\d+) \((.+)\), {re.escape(runtime)} class (\d+) \((.+)\)"
    config = checkpoint.config
    shape = (3, config.in_channels, *config.image_size)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    assert len(lines) == 3
    for line, expected in zip(lines, float64_logits(checkpoint.model, x), strict=True):
        one, its_logit, two, other_logit = re.fullmatch(form, line).groups()
        assert int(one) == int(two) == expected.argmax()
        for logit in (its_logit, other_logit):
            assert float(logit) == pytest.approx(expected.max(), rel=1e-4)
    assert 0 <= float(last.split()[-1]) < 1e-4


@pytest.mark.parametrize("kind", ["colours", "tall", "grey", "palette", "turned by Exif"])
def test_onnxruntime_answers_pictures_with_nothing_of_ours(folder, tmp_path, kind):
    network = "digits" if kind == "grey" else "small"
    checkpoint = read_checkpoint(folder / f"{network}.pth")
    path, saved = picture(tmp_path, kind), tmp_path / "prepared.npy"
    source = (EXAMPLES / "run_onnxruntime.py").read_text()
    assert not re.search(r"^\s*(from|import) levit_deploy", source, re.MULTILINE)

    artifact = folder / f"{network}.spatial"
    printed = script("run_onnxruntime.py", artifact, path, "--save", saved)
    with Image.open(path) as opened:
        x = prepare(opened, checkpoint.config, checkpoint.preprocessing)[None]
    np.testing.assert_array_equal(np.load(saved), x)
    check_top5(printed, checkpoint, path, x)


@pytest.mark.parametrize("truncated", [True, False])
def test_it_crops_and_resizes_as_the_metadata_says(folder, tmp_path, truncated):
    import onnx

    model = onnx.load(folder / "small.spatial")
    entry = next(entry for entry in model.metadata_props if entry.key == "preprocessing")
    how = Preprocessing(0.9, truncated=truncated)
    entry.value = how.to_json()
    onnx.save(model, tmp_path / "small.onnx")
    path, saved = tmp_path / "odd.png", tmp_path / "prepared.npy"
    pixels = np.random.default_rng(5).integers(0, 256, (14, 49, 3), np.uint8)  # as 71 to 248.5
    Image.fromarray(pixels).save(path)
    script("run_onnxruntime.py", tmp_path / "small.onnx", path, "--save", saved)
    expected = prepare(Image.fromarray(pixels), read_checkpoint(folder / "small.pth").config, how)
    np.testing.assert_array_equal(np.load(saved)[0], expected)


def picture(folder: Path, kind: str) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (150, 203, 3), np.uint8)
    made = Image.fromarray(pixels.transpose(1, 0, 2).copy() if kind == "tall" else pixels)
    path = folder / "picture.png"
    if kind == "turned by Exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held upright
        made.save(path, exif=exif)
    else:
        made.convert({"grey": "L", "palette": "P"}.get(kind, "RGB")).save(path)
    return path


def check_top5(printed: str, checkpoint: Checkpoint, path: Path, x: np.ndarray) -> None:
    name, *rows = printed.splitlines()
    assert name == str(path)
    expected = float64_logits(checkpoint.model, torch.from_numpy(x))
    probabilities = np.exp(expected[0]) / np.exp(expected[0]).sum()
    with torch.inference_mode():
        allowed = budget([checkpoint.model(torch.from_numpy(x)).numpy()], expected)
    answers = [re.fullmatch(r" +([\d.]+)%  logit (\S+) +class (\d+)", row) for row in rows]
    assert [int(answer[3]) for answer in answers] == list(np.argsort(-expected[0])[:5])
    for percent, logit, index in (answer.groups() for answer in answers):
        assert abs(float(logit) - expected[0, int(index)]) <= allowed.max_error
        assert float(percent) == pytest.approx(100 * probabilities[int(index)], abs=0.01)


def test_onnxruntime_s_answers_have_the_artifact_s_labels(folder, tmp_path):
    import onnx

    model = onnx.load(folder / "small.spatial")
    entry = model.metadata_props.add()
    entry.key, entry.value = "labels", '["a", "b", "c", "d", "e", "f", "great tit"]'
    onnx.save(model, tmp_path / "labelled.onnx")
    path = picture(tmp_path, "colours")
    arguments = ("run_onnxruntime.py", tmp_path / "labelled.onnx", path)
    named = [line.split(maxsplit=3)[-1] for line in script(*arguments).splitlines()[1:]]
    plain = script("run_onnxruntime.py", folder / "small.spatial", path).splitlines()[1:]
    labels = ["a", "b", "c", "d", "e", "f", "great tit"]
    assert named == [labels[int(line.split()[-1])] for line in plain]
    entry.key, entry.value = "problem_type", "regression"
    onnx.save(model, tmp_path / "labelled.onnx")
    command = [sys.executable, EXAMPLES / arguments[0], *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 1)
    assert "not for one class of several" in done.stderr


@pytest.mark.slow
def test_a_cpp_program_computes_the_original_s_logits(folder, tmp_path):
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    build = tmp_path / "build"
    printed_by("cmake", "-S", EXAMPLES / "cpp", "-B", build, "-DCMAKE_BUILD_TYPE=Release", prefix)
    printed_by("cmake", "--build", build)

    for network in NETWORKS:
        arguments = folder / f"{network}.torchscript", folder / f"{network}.npy"
        check_images(printed_by(build / "run", *arguments), folder, network)

    # the whole way there, which finds the program built already
    printed = script("official_to_cpp.py", folder / "small.pth", "--build", build)
    check_both_answers(printed, "C++", read_checkpoint(folder / "small.pth"))

    # a picture of the network's size, in colours and in grey
    rng = np.random.default_rng(4)
    for network, suffix, shape in (("small", "ppm", (64, 96, 3)), ("digits", "pgm", (64, 64))):
        checkpoint = read_checkpoint(folder / f"{network}.pth")
        path, pixels = tmp_path / f"picture.{suffix}", rng.integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(path)
        mean, std = (np.float32(s) for s in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        if network == "digits":
            mean, std = mean.mean(), std.mean()
        x = (pixels.reshape(*checkpoint.config.image_size, -1) / np.float32(255) - mean) / std
        printed = printed_by(build / "run", folder / f"{network}.torchscript", path)
        check_logits(printed, checkpoint.model, x.transpose(2, 0, 1)[None].copy())

    # what torch would run all the same, or crash on
    np.save(tmp_path / "turned.npy", images(n=1).numpy().transpose(0, 1, 3, 2))
    for given, reason in ((tmp_path / "turned.npy", "size"), (tmp_path / "none.npy", "be read")):
        command = [build / "run", folder / "small.torchscript", given]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert reason in done.stderr


@pytest.mark.slow
def test_verify_in_runtimes_proves_a_right_artifact_and_refuses_a_wrong_one(folder, tmp_path):
    import onnx

    path = folder / "small.pth"
    printed = script("verify_in_runtimes.py", path, folder / "small.spatial")
    assert "onnx.reference" in printed
    assert all(line.endswith("proven") for line in printed.splitlines())

    model = onnx.load(folder / "small.spatial")
    weight = next(w for w in model.graph.initializer if w.name == "head.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] += 0.1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "head.weight"))
    onnx.save(model, tmp_path / "wrong.onnx")
    command = [sys.executable, EXAMPLES / "verify_in_runtimes.py", path, tmp_path / "wrong.onnx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert all(line.endswith("FAILED") for line in done.stdout.splitlines())
