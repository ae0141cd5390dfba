"""Run the scripts in examples/, and hold what they print to the original in float64."""

import io
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from networks import float64_logits
from PIL import Image

from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.interface import Interface
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.target import ExportOptions
from levit_deploy.verification.budget import budget, rms

EXAMPLES = Path(__file__).parent.parent / "examples"
NODE_PACKAGE = EXAMPLES / "node" / "node_modules" / "onnxruntime-node"
NETWORKS = ("small", "digits")
FORMS = {
    "spatial": ("onnx", "spatial", None),
    "attention": ("onnx", "tokens", 23),
    "torchscript": ("torchscript", "tokens", None),
}
TOLD = "crop 0.9, bilinear, mean 0.3 0.4 0.6, std 0.5"


def printed_by(*command) -> str:
    """What a command prints, on one thread, as the other tests need the rest."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def here(name: str, *arguments: object) -> tuple[str, object]:
    """Run a script in this process, which has torch already: what it prints, and its exit code."""
    argv, path = [name, *map(str, arguments)], [str(EXAMPLES), *sys.path]
    code: object = 0
    with redirect_stdout(io.StringIO()) as printed, patch.multiple(sys, argv=argv, path=path):
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
    return printed.getvalue(), code


def script(name, *arguments, warnings="error") -> str:
    """What a script prints: in this process, or in one where warnings are ignored."""
    if warnings != "error":
        return printed_by(sys.executable, "-W", warnings, EXAMPLES / name, *arguments)
    printed, code = here(name, *arguments)
    assert not code, code
    return printed


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


def serialised(format: str, checkpoint: Checkpoint, options: ExportOptions) -> bytes:
    provenance = Provenance(
        checkpoint_sha256=checkpoint.sha256,
        config=checkpoint.config,
        head="mean",
        layout="tokens",
        preprocessing=checkpoint.preprocessing,
        interface=Interface(options.input, options.output),
    )
    return TARGETS[format].serialize(to_plain(checkpoint.model), provenance, options)


def check_probabilities(printed: str, checkpoint: Checkpoint, pixels: np.ndarray) -> None:
    x = checkpoint.transform.normalise(pixels, np.float64)
    expected = np.exp(float64_logits(checkpoint.model, torch.from_numpy(x)))
    expected /= expected.sum(axis=1, keepdims=True)
    found = np.array([line.split() for line in printed.splitlines()], np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def executable(path: Path, does: str) -> None:
    """Write a shell script that stands for a program."""
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
