"""The scripts that go the whole way from a checkpoint to another runtime."""

import json
import re
import shutil

import numpy as np
import pytest
from example_scripts import (
    EXAMPLES,
    check_both_answers,
    executable,
    script,
)
from foreign import timm
from networks import GOLDENS
from PIL import Image
from safetensors.torch import save_file

import levit_deploy
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import MEAN, STD, held_out


@pytest.mark.node
@pytest.mark.usefixtures("node")
def test_a_folder_of_transformers_runs_in_node(tmp_path):
    checkpoint = GOLDENS / "transformers"
    arguments = (checkpoint, "-o", tmp_path / "levit.onnx")
    printed = script("transformers_to_node.py", *arguments)
    check_both_answers(printed, "Node", read_checkpoint(checkpoint))


WAYS = ("transformers_to_node.py", "official_to_cpp.py", "timm_to_int8.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_a_way_overwrites_nothing_and_ends_in_a_sentence(refused, files, tmp_path, name):
    output = tmp_path / "out"
    pictures = (tmp_path,) if name == "timm_to_int8.py" else ()
    for i in range(40 * len(pictures)):  # the least it takes
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    missing = refused(name, tmp_path / "missing.pth", *pictures, "-o", output)
    assert "missing.pth does not exist" in missing
    output.write_text("mine")
    assert "Add --force" in refused(name, files / "small.pth", *pictures, "-o", output)
    assert output.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "there", "missing"),
    [
        ("transformers_to_node.py", (), "npm"),
        ("transformers_to_node.py", ("npm",), "node"),
        ("official_to_cpp.py", (), "cmake"),
    ],
)
def test_a_way_names_the_program_that_is_missing(
    refused, files, tmp_path, monkeypatch, name, there, missing
):
    monkeypatch.setattr(levit_deploy, "export", lambda *_, **__: None)  # takes seconds
    examples, programs = tmp_path / "examples", tmp_path / "bin"
    shutil.copytree(EXAMPLES, examples, ignore=shutil.ignore_patterns("node_modules"))
    programs.mkdir()
    for program in there:
        executable(programs / program, "exit 0")
    arguments = (files / "small.pth", "-o", tmp_path / "out")
    said = refused(examples / name, *arguments, path=programs)
    assert f"No such file or directory: '{missing}'" in said
    assert said.endswith("installed?")


@pytest.mark.slow
def test_a_runtime_that_computes_something_else_is_refused(refused, files, tmp_path):
    # two shell scripts stand in for a Node that is wrong, as the real one is right
    executable(tmp_path / "npm", "exit 0")
    executable(tmp_path / "node", "echo 0 1 2 3 4 5 6; " * 3)
    arguments = (files / "small.pth", "-o", tmp_path / "out")
    assert "Do not ship it" in refused("transformers_to_node.py", *arguments, path=tmp_path)
    executable(tmp_path / "node", "echo the reason >&2; exit 3")
    said = refused("transformers_to_node.py", *arguments, "--force", path=tmp_path)
    assert "the reason" in said
    assert "exit status 3" in said


@pytest.mark.study
def test_timm_to_int8_keeps_the_answers(tmp_path):
    checkpoint = read_demo_checkpoint(tmp_path)
    labels = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    config = {
        "num_classes": 10,
        "label_names": labels,
        "pretrained_cfg": {"crop_pct": 1.0, "mean": [MEAN], "std": [STD]},
    }
    folder, pictures = tmp_path / "timm", tmp_path / "pictures"
    folder.mkdir()
    save_file(timm(checkpoint.model, checkpoint.config), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    digits = held_out()
    for i, (image, label) in enumerate(zip(digits.images[:160], digits.labels, strict=False)):
        path = pictures / labels[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(255 * (image[0] * STD + MEAN)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)

    out = tmp_path / "int8.onnx"
    arguments = (folder, pictures, "-o", out, "--max-drop", 1, "--even-if-slower")
    printed = script("timm_to_int8.py", *arguments)
    before, after = map(float, re.search(r"top-1: (\S+) %, in int8 (\S+) %", printed).groups())
    assert before > 98  # so the names, the pictures and what is done to them are right
    assert after >= before - 1
    assert out.stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
    first = sorted(pictures.rglob("*.png"))[0]
    assert printed.splitlines()[-1] == f"{first}: {first.parent.name}"
