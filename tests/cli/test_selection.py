"""The options that select the network among the tensors of a file, in every command."""

import json

import pytest
import torch
from command_line import run
from networks import SMALL, trained

from levit_deploy.targets.load import load_artifact

CONFIG = SMALL.replace(image_size=(64, 64))


@pytest.fixture
def checkpoint(tmp_path):
    """A student with its loss, beside a teacher of another kind and an unused layer."""
    contents = {f"student.{key}": tensor for key, tensor in trained(CONFIG).state_dict().items()}
    contents |= {
        "criterion.weight": torch.ones(7),
        "student.aux.weight": torch.ones(3, 3),
        "teacher.fc.weight": torch.ones(3, 5),
    }
    path = tmp_path / "run.ckpt"
    torch.save({"state_dict": contents, "epoch": 3}, path)
    return path


WORDS = ("--weights", "student", "--ignore", "*.aux.*")
LEFT_OUT = [
    "criterion.weight (of a loss)",
    "student.aux.weight (by --ignore)",
    "teacher.fc.weight (not of student)",
]


def test_what_could_count_is_refused_with_the_options(checkpoint):
    code, _, error = run("inspect", checkpoint)
    assert code == 3
    assert "teacher.fc.weight" in error
    assert "--ignore 'student.aux.*'" in error


def test_inspect_tells_the_prefix_and_what_was_passed_over(checkpoint):
    code, out, _ = run("inspect", checkpoint, *WORDS)
    assert code == 0
    words = " ".join(out.split())
    assert "weights student prefix student." in words
    assert all(f"passed over {tensors}" in words for tensors in LEFT_OUT)
    _, out, _ = run("inspect", checkpoint, *WORDS, "--json", "-")
    data = json.loads(out)
    assert (data["weights"], data["prefix"]) == ("student", "student.")
    assert data["passed_over"] == LEFT_OUT


@pytest.mark.parametrize("option", ["--ignore", "--head-name"])
def test_a_name_that_is_not_there_is_a_usage_error(checkpoint, option):
    code, _, error = run("inspect", checkpoint, *WORDS, option, "nothing")
    assert code == 2
    assert option in error


def test_writing_and_verifying_tell_it_and_the_artifact_carries_it(checkpoint):
    fused, onnx = checkpoint.with_name("a.safetensors"), checkpoint.with_name("a.onnx")
    report = checkpoint.with_name("a.html")
    for command in (
        ("fuse", checkpoint, *WORDS, "-o", fused),
        ("export", fused, "-o", onnx),
        ("verify", checkpoint, *WORDS, onnx, "--report", report),
    ):
        code, out, _ = run(*command, "--json", checkpoint.with_name(f"{command[0]}.json"))
        assert code == 0
        assert all(f"passed over: {tensors}" in out for tensors in LEFT_OUT)
        data = json.loads(checkpoint.with_name(f"{command[0]}.json").read_text())
        assert data["passed_over"] == LEFT_OUT
    assert json.loads(load_artifact(onnx).metadata["passed_over"]) == LEFT_OUT
    assert load_artifact(onnx).metadata["weights"] == "student"
    assert all(tensors in report.read_text() for tensors in LEFT_OUT)
