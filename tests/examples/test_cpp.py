"""The program in examples/cpp, built and run."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from example_scripts import (
    EXAMPLES,
    NETWORKS,
    TOLD,
    check_both_answers,
    check_images,
    check_logits,
    check_probabilities,
    printed_by,
    script,
    serialised,
)
from networks import TINY, images, trained
from PIL import Image

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import UsageError
from levit_deploy.targets.plan import Plan
from levit_deploy.targets.pt2 import PT2, compiled_here
from levit_deploy.targets.target import ExportOptions

pytestmark = [pytest.mark.study, pytest.mark.cpp]


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """The folder with both programs."""
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    build = tmp_path_factory.mktemp("cpp") / "build"
    # not as a release: to optimise takes a quarter of the time, and torch computes, not the program
    printed_by("cmake", "-S", EXAMPLES / "cpp", "-B", build, prefix)
    printed_by("cmake", "--build", build, "--parallel", 2)
    return build


def refusal(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_a_cpp_program_computes_the_original_s_logits(build, files, tmp_path):
    for network in NETWORKS:
        arguments = files / f"{network}.torchscript", files / f"{network}.npy"
        check_images(printed_by(build / "run", *arguments), files, network)

    # the whole way there, which finds the program built already
    arguments = ("-o", tmp_path / "small.pt", "--build", build)
    printed = script("official_to_cpp.py", files / "small.pth", *arguments)
    check_both_answers(printed, "C++", read_checkpoint(files / "small.pth"))

    # a picture of the network's size, in colours and in grey
    rng = np.random.default_rng(4)
    for network, suffix, shape in (("small", "ppm", (64, 96, 3)), ("digits", "pgm", (64, 64))):
        checkpoint = read_checkpoint(files / f"{network}.pth")
        path, pixels = tmp_path / f"picture.{suffix}", rng.integers(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(path)
        if suffix == "pgm":  # as GIMP writes it
            path.write_bytes(path.read_bytes().replace(b"\n", b"\n# a comment: 1 2 3\n", 1))
        mean, std = (np.float32(s) for s in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        if network == "digits":
            mean, std = mean.mean(), std.mean()
        x = (pixels.reshape(*checkpoint.config.image_size, -1) / np.float32(255) - mean) / std
        printed = printed_by(build / "run", files / f"{network}.torchscript", path)
        check_logits(printed, checkpoint.model, x.transpose(2, 0, 1)[None].copy())

    # bytes, from a file and from a picture
    told = read_checkpoint(files / "small.pth", preprocessing=TOLD)
    options = ExportOptions(input="uint8", output="probabilities")
    (tmp_path / "bytes.pt").write_bytes(serialised("torchscript", told, options))
    pixels = rng.integers(0, 256, (3, 64, 96, 3), np.uint8)
    np.save(tmp_path / "bytes.npy", pixels)
    Image.fromarray(pixels[0]).save(tmp_path / "bytes.ppm")
    for given, n in (("bytes.npy", 3), ("bytes.ppm", 1)):
        printed = printed_by(build / "run", tmp_path / "bytes.pt", tmp_path / given)
        check_probabilities(printed, told, pixels[:n])
    refused = refusal(build / "run", files / "small.torchscript", tmp_path / "bytes.npy")
    assert refused.endswith("bytes.npy holds bytes, unlike what the artifact takes.\n")

    # what torch would run all the same, or crash on
    np.save(tmp_path / "turned.npy", images(n=1).numpy().transpose(0, 1, 3, 2))
    for given, reason in ((tmp_path / "turned.npy", "size"), (tmp_path / "none.npy", "be read")):
        assert reason in refusal(build / "run", files / "small.torchscript", given)


def test_a_cpp_program_runs_native_code(build, tmp_path):
    try:
        target = compiled_here()
    except UsageError as error:
        pytest.skip(str(error))
    torch.save(trained(TINY).state_dict(), tmp_path / "ckpt.pth")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pth", image_size=(32, 32))
    for name, made, compile in (("native", target, True), ("plain", PT2, False)):
        options = ExportOptions(compile=compile)
        plan = Plan(
            checkpoint=checkpoint, target=made, head="mean", layout="tokens", options=options
        )
        (tmp_path / f"{name}.pt2").write_bytes(plan.serialize())
    program, artifact = build / "run_compiled", tmp_path / "native.pt2"
    for n in (1, 3):
        x = images(TINY, n).numpy()
        np.save(tmp_path / "images.npy", x)
        check_logits(printed_by(program, artifact, tmp_path / "images.npy"), checkpoint.model, x)
    np.save(tmp_path / "large.npy", images(n=1).numpy())
    assert "size" in refusal(program, artifact, tmp_path / "large.npy")
    refused = refusal(program, tmp_path / "plain.pt2", tmp_path / "images.npy")
    assert refused.endswith("plain.pt2 is not compiled for this processor.\n")
