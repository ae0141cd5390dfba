"""Runtimes that are not ours run an artifact unchanged, each by its script in examples/.

What a script prints is held to the budget of the proof, against the original in float64.
"""

import os
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
from prepared import prepare

from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import held_out
from levit_deploy.interface import Interface
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.pictures.transform import normalise
from levit_deploy.pipeline import export
from levit_deploy.provenance import Provenance
from levit_deploy.targets.target import EXPORTERS, ExportOptions
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


@pytest.mark.slow
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


def check_top5(
    printed: str, checkpoint: Checkpoint, path: Path, x: np.ndarray, logits: bool = True
) -> None:
    name, *rows = printed.splitlines()
    assert name == str(path)
    expected = float64_logits(checkpoint.model, torch.from_numpy(x))
    probabilities = np.exp(expected[0]) / np.exp(expected[0]).sum()
    with torch.inference_mode():
        allowed = budget([checkpoint.model(torch.from_numpy(x)).numpy()], expected)
    answers = [re.fullmatch(r" +([\d.]+)%(?:  logit (\S+) +)?  class (\d+)", row) for row in rows]
    assert [int(answer[3]) for answer in answers] == list(np.argsort(-expected[0])[:5])
    for percent, logit, index in (answer.groups() for answer in answers):
        if logits:
            assert abs(float(logit) - expected[0, int(index)]) <= allowed.max_error
        else:
            assert logit is None
        assert float(percent) == pytest.approx(100 * probabilities[int(index)], abs=0.01)


TOLD = "crop 0.9, bilinear, mean 0.3 0.4 0.6, std 0.5"


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(output="probabilities"),
        ExportOptions(input="uint8"),
        ExportOptions(batch_size=3),
    ],
    ids=["probabilities", "bytes", "fixed batch"],
)
def test_onnxruntime_answers_pictures_by_any_interface(folder, tmp_path, options):
    checkpoint = read_checkpoint(folder / "small.pth", preprocessing=TOLD)
    (tmp_path / "x.onnx").write_bytes(serialised("onnx", checkpoint, options))
    path = picture(tmp_path, "colours")
    command = [sys.executable, "-W", "error", EXAMPLES / "run_onnxruntime.py", tmp_path / "x.onnx"]
    done = subprocess.run([*command, path], capture_output=True, text=True)
    assert done.stderr == ""  # nothing is assumed
    with Image.open(path) as opened:
        x = prepare(opened, checkpoint.config, checkpoint.preprocessing)[None]
    check_top5(done.stdout, checkpoint, path, x, logits=options.output == "logits")


def serialised(format: str, checkpoint: Checkpoint, options: ExportOptions) -> bytes:
    provenance = Provenance(
        checkpoint.sha256,
        checkpoint.config,
        "mean",
        "tokens",
        preprocessing=checkpoint.preprocessing,
        interface=Interface(options.input, options.output),
    )
    return EXPORTERS[format].serialize(to_plain(checkpoint.model), provenance, options)


def test_onnxruntime_says_that_it_is_assumed_how_pictures_are_prepared(folder, tmp_path):
    command = [sys.executable, EXAMPLES / "run_onnxruntime.py", folder / "small.spatial"]
    done = subprocess.run([*command, picture(tmp_path, "grey")], capture_output=True, text=True)
    assert "as for ImageNet" in done.stderr


@pytest.mark.parametrize(
    "name", ["run_openvino.py", "run_opencv.py", "run_reference.py", "node/run.mjs"]
)
def test_a_runtime_takes_bytes_and_gives_probabilities(folder, tmp_path, name):
    interpreter = sys.executable
    if name.endswith(".mjs"):
        interpreter = shutil.which("node")
        if interpreter is None or not NODE_PACKAGE.is_dir():
            pytest.skip("onnxruntime-node is not installed: npm install --ignore-scripts")
    elif name != "run_reference.py":
        pytest.importorskip(name[4:-3].replace("opencv", "cv2"))
    checkpoint = read_checkpoint(folder / "small.pth", preprocessing=TOLD)
    options = ExportOptions(input="uint8", output="probabilities")
    (tmp_path / "x.onnx").write_bytes(serialised("onnx", checkpoint, options))
    pixels = np.random.default_rng(5).integers(0, 256, (3, 64, 96, 3), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    printed = printed_by(interpreter, EXAMPLES / name, tmp_path / "x.onnx", tmp_path / "x.npy")
    check_probabilities(printed, checkpoint, pixels)


def check_probabilities(printed: str, checkpoint: Checkpoint, pixels: np.ndarray) -> None:
    x = normalise(pixels, checkpoint.config, checkpoint.preprocessing, np.float64)
    expected = np.exp(float64_logits(checkpoint.model, torch.from_numpy(x)))
    expected /= expected.sum(axis=1, keepdims=True)
    found = np.array([line.split() for line in printed.splitlines()], np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_node_says_how_to_call_it():
    if shutil.which("node") is None or not NODE_PACKAGE.is_dir():
        pytest.skip("onnxruntime-node is not installed: npm install --ignore-scripts")
    done = subprocess.run(["node", EXAMPLES / "node" / "run.mjs"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "Usage: node run.mjs ARTIFACT.onnx IMAGES.npy\n")


WAYS = ("transformers_to_node.py", "official_to_cpp.py", "timm_to_int8.py")


def refused(name, *arguments, path=None) -> str:
    """What a script says that ends without success, and without a traceback."""
    command = [sys.executable, EXAMPLES / name, *arguments]
    environment = os.environ | ({"PATH": str(path)} if path else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_a_whole_way_overwrites_nothing_and_ends_in_a_sentence(folder, tmp_path, name):
    output = tmp_path / "out"
    pictures = (tmp_path,) if name == "timm_to_int8.py" else ()
    for i in range(40 * len(pictures)):  # the least it takes
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    missing = refused(name, tmp_path / "missing.pth", *pictures, "-o", output)
    assert "missing.pth does not exist" in missing
    output.write_text("mine")
    assert "Add --force" in refused(name, folder / "small.pth", *pictures, "-o", output)
    assert output.read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tool"), [(WAYS[0], "node"), (WAYS[1], "cmake")])
def test_a_whole_way_says_which_program_is_missing(folder, tmp_path, name, tool):
    said = refused(name, folder / "small.pth", "-o", tmp_path / "out", path=tmp_path)
    assert f"No such file or directory: '{tool}'" in said
    assert said.endswith("installed?\n")


@pytest.mark.slow
def test_a_runtime_that_computes_something_else_is_refused(folder, tmp_path):
    # two shell scripts stand in for a Node that is wrong, as the real one is right
    for name, does in (("npm", "exit 0"), ("node", "echo 0 1 2 3 4 5 6; " * 3)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    arguments = (folder / "small.pth", "-o", tmp_path / "out")
    assert "Do not ship it" in refused("transformers_to_node.py", *arguments, path=tmp_path)
    (tmp_path / "node").write_text("#!/bin/sh\necho the reason >&2; exit 3\n")
    said = refused("transformers_to_node.py", *arguments, "--force", path=tmp_path)
    assert "the reason" in said
    assert "exit status 3" in said


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
    arguments = ("-o", tmp_path / "small.pt", "--build", build)
    printed = script("official_to_cpp.py", folder / "small.pth", *arguments)
    check_both_answers(printed, "C++", read_checkpoint(folder / "small.pth"))

    # a picture of the network's size, in colours and in grey
    rng = np.random.default_rng(4)
    for network, suffix, shape in (("small", "ppm", (64, 96, 3)), ("digits", "pgm", (64, 64))):
        checkpoint = read_checkpoint(folder / f"{network}.pth")
        path, pixels = tmp_path / f"picture.{suffix}", rng.integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(path)
        if suffix == "pgm":  # as GIMP writes it
            path.write_bytes(path.read_bytes().replace(b"\n", b"\n# a comment: 1 2 3\n", 1))
        mean, std = (np.float32(s) for s in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        if network == "digits":
            mean, std = mean.mean(), std.mean()
        x = (pixels.reshape(*checkpoint.config.image_size, -1) / np.float32(255) - mean) / std
        printed = printed_by(build / "run", folder / f"{network}.torchscript", path)
        check_logits(printed, checkpoint.model, x.transpose(2, 0, 1)[None].copy())

    # bytes, from a file and from a picture
    told = read_checkpoint(folder / "small.pth", preprocessing=TOLD)
    options = ExportOptions(input="uint8", output="probabilities")
    (tmp_path / "bytes.pt").write_bytes(serialised("torchscript", told, options))
    pixels = rng.integers(0, 256, (3, 64, 96, 3), np.uint8)
    np.save(tmp_path / "bytes.npy", pixels)
    Image.fromarray(pixels[0]).save(tmp_path / "bytes.ppm")
    for given, n in (("bytes.npy", 3), ("bytes.ppm", 1)):
        printed = printed_by(build / "run", tmp_path / "bytes.pt", tmp_path / given)
        check_probabilities(printed, told, pixels[:n])
    command = [build / "run", folder / "small.torchscript", tmp_path / "bytes.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("bytes.npy holds bytes, unlike what the artifact takes.\n")

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
    assert done.stdout.count("\n") == printed.count("\n") > 0
    assert all(line.endswith("FAILED") for line in done.stdout.splitlines())


@pytest.mark.slow
def test_verify_in_runtimes_holds_an_artifact_to_what_it_says_of_itself(folder, tmp_path):
    path = tmp_path / "class.onnx"
    options = ExportOptions(input="uint8", output="probabilities")
    checkpoint = read_checkpoint(folder / "small.pth", preprocessing=TOLD)
    export(checkpoint, "onnx", path, head="class", options=options)
    arguments = (folder / "small.pth", path, "--preprocessing", TOLD)
    printed = script("verify_in_runtimes.py", *arguments)
    assert "onnx.reference" in printed
    assert all(line.endswith("proven") for line in printed.splitlines())


@pytest.mark.slow
def test_verify_in_runtimes_does_not_succeed_where_it_proves_nothing(folder):
    command = [sys.executable, EXAMPLES / "verify_in_runtimes.py", folder / "small.pth"]
    command += [folder / "small.torchscript"]  # without the program for it
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not proven: no other runtime for torchscript was found" in done.stdout
