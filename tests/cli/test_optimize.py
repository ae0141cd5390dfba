"""``levit-deploy optimize`` on the demo's network, with stub timings."""

import json
import shlex

import pytest
from command_line import names_in, run

from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.optimization.contest import Contest

SECONDS = {"tokens, opset 23, onnxruntime": 0.25, "tokens, onnxruntime": 0.5}


@pytest.fixture
def demo(tmp_path, monkeypatch):
    monkeypatch.setattr(Contest, "_seconds", lambda _, entrant: SECONDS.get(entrant.label, 1.0))
    read_demo_checkpoint(tmp_path)
    return tmp_path


def optimized(demo, *options):
    command = ("optimize", demo / "digits.pth", "--runtime", "onnxruntime")
    return run(*command, "--activation", "hardswish", *options)


def test_the_table_tells_the_winner_and_the_command(demo):
    code, out, _ = optimized(demo)
    assert code == 0
    folder = demo / "digits.optimized"
    assert names_in(folder) == ["digits.onnx", "optimize.html", "optimize.json"]
    assert "winner: tokens, opset 23, onnxruntime, 4.00 times as fast: 250.00 ms" in out
    assert "left out: int8, opset 17, onnxruntime. int8 needs pictures" in out
    assert "Here --opset 23 makes it 4.00 times as fast." in out
    assert "verdict: proven" in out
    (line,) = (line for line in out.splitlines() if line.startswith("made again by: "))
    command = shlex.split(line.removeprefix("made again by: "))
    assert command[1:] == [
        *("export", str(demo / "digits.pth"), "--activation", "hardswish"),
        *("--opset", "23", "-o", "digits.onnx"),
    ]
    assert run("verify", demo / "digits.pth", folder / "digits.onnx")[0] == 0


def test_json_is_the_record(demo):
    code, out, _ = optimized(demo, "-o", demo / "best", "--json", "-")
    assert code == 0
    data = json.loads(out)
    assert data == json.loads((demo / "best" / "optimize.json").read_text())
    (winner,) = (row for row in data["candidates"] if row["state"] == "winner")
    assert winner["label"] == data["winner"]
    assert winner["speed"]["median"] == 4
    assert winner["drop"] == 0
    assert winner["verification"]["passed"]
    assert data["constraints"]["time_limit_s"] == 480


def test_a_limit_that_nothing_keeps_is_exit_1_with_the_table(demo):
    before = names_in(demo)
    code, out, err = optimized(demo, "--max-latency", "200")
    assert code == 1
    assert "250.00" in out
    assert "winner: none" in out
    assert "Nothing was published" in err
    assert names_in(demo) == before


def test_an_interrupt_prints_what_is_known(demo, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Contest, "_prove", interrupted)
    before = names_in(demo)
    code, out, err = optimized(demo)
    assert code == 130
    assert "tokens, opset 23" in out
    assert "winner: none" in out
    assert "interrupted" in err
    assert names_in(demo) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--runtime", "tpu"), "--runtime 'tpu' is not one of onnxruntime"),
        (("--max-drop", "1"), "Give --images DIR"),
        (("--time-limit", "0"), "--time-limit 0 is not a positive number"),
    ],
)
def test_what_makes_no_sense_is_exit_2(demo, options, words):
    code, _, err = optimized(demo, *options)
    assert code == 2
    assert words in " ".join(err.split())
