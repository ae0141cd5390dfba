import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from networks import GOLDENS, SMALL
from prepared import transform_of
from rich.console import Console

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.pictures.split import Judging
from levit_deploy.report import (
    console,
    print_benchmark,
    print_verification,
    print_verified,
    to_json,
    verification_data,
)
from levit_deploy.verification.accuracy import accuracy
from levit_deploy.verification.batches import BatchResult
from levit_deploy.verification.budget import Budget
from levit_deploy.verification.compare import CaseResult
from levit_deploy.verification.result import Verification


def result(**changes):
    figures = {
        "name": "normal",
        "images": 8,
        "rmse": 1e-6,
        "max_error": 3e-6,
        "budget": Budget(2e-6, 8e-6),
        "decided": 8,
        "disagreements": 0,
        "finite": True,
        "spread": 2.0,
    }
    return CaseResult(**{**figures, **changes})


def verification(*results):
    batches = (BatchResult(2, "zeros", 1e-7, 5e-6), BatchResult(16, "large", 4e-5, 7e-5))
    return Verification(
        format="onnx",
        runtime="onnxruntime",
        sha256="ab" * 32,
        precision="fp16",
        head="mean",
        seed=0,
        cases=results,
        batches=batches,
    )


def printed(*results):
    out = io.StringIO()
    console = Console(file=out, width=100)
    print_verification(verification_data(verification(*results)), console)
    return out.getvalue()


def test_the_table_shows_every_figure_beside_what_is_allowed():
    text = printed(result(), result(name="zeros", disagreements=3, max_error=9e-6))
    for figure in ("normal", "1.0e-06", "2.0e-06", "3.0e-06", "8.0e-06", "8/8", "5/8", "9.0e-06"):
        assert figure in text
    assert text.count("proven") == 2
    assert text.count("FAILED") == 1


def test_where_no_image_is_decided_the_table_says_so():
    text = printed(result(decided=0))
    assert "none decided" in text
    assert "0/0" not in text


def test_of_the_batches_the_worst_is_shown():
    line = next(line for line in printed(result()).splitlines() if "together" in line)
    assert line.split() == ["together", "18", "4.0e-05", "7.0e-05", "proven"]


def test_json_is_strict_and_keeps_every_digit():
    data = verification_data(verification(result(rmse=1 / 3, max_error=float("nan"), finite=False)))
    case = json.loads(to_json(data), parse_constant=pytest.fail)["cases"][0]
    assert case["rmse"] == 1 / 3
    assert case["max_error"] is None
    assert case["failures"] == ["NaN or infinite outputs"]


def test_square_brackets_in_a_file_name_are_printed(capsys):
    proof = verification_data(verification(result()))
    data = {"path": "m[v2].onnx", "passed_over": [], "assumed": [], "verification": proof}
    print_verified(data, console())
    assert "m[v2].onnx: onnx in onnxruntime, fp16, held to the mean head" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("golden", "words"), [("timm", "mean head"), ("transformers-single-head", "only head")]
)
def test_of_one_head_nobody_takes_the_mean(golden, words, capsys):
    checkpoint = read_checkpoint(GOLDENS / golden / "model.safetensors")
    proof = verification_data(verification(result()), checkpoint)
    print_verified(
        {"path": "m.onnx", "passed_over": [], "assumed": [], "verification": proof}, console()
    )
    assert f"onnx in onnxruntime, fp16, held to the {words}\n" in capsys.readouterr().out


def judged(labels, worse, better, wrong=0):
    """The report of int8 on 200 pictures: so many change, and so many are wrong in float32, too."""
    place, right = np.arange(200), np.arange(200) % 5
    before = np.where((place >= worse) & (place < worse + better + wrong), 5, right)
    after = np.where((place < worse) | (before > right) & (place >= worse + better), 6, right)
    pictures = Judging(
        paths=(Path("x.png"),) * 200,
        labels=right if labels else None,
        transform=transform_of(SMALL),
    )
    figures = accuracy(before, after, pictures, 2)
    data = verification_data(
        dataclasses.replace(verification(result()), precision="int8", accuracy=figures)
    )
    out = io.StringIO()
    shown = {"path": "m.onnx", "passed_over": [], "assumed": [], "verification": data}
    print_verified(shown, Console(file=out, width=100))
    return data, [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_the_accuracy_of_int8_is_told_with_its_confidence():
    data, lines = judged(True, 4, 2, wrong=1)
    for line in (
        "int8 beside float32 on 200 pictures verdict",
        "the same top-1 96.50 %",
        "top-1 in float32 98.50 %",
        "top-1 in int8 97.50 %",
        "changed for the better 2 pictures",
        "changed for the worse 4 pictures",
        "lost 1.00 points, 2 allowed",
        "lost at most 3.9 points, with 95 % confidence too few pictures",
        "verdict: proven, but on too few pictures to be sure of its accuracy: "
        "lost 1.00 points; at most 3.9 with 95 % confidence; about 1,100 pictures would show 2",
    ):
        assert line in lines
    told = json.loads(to_json(data))["accuracy"]
    assert (told["changed_for_better"], told["changed_for_worse"], told["shown"]) == (2, 4, False)
    assert 3.8 < told["largest_drop"] <= 3.9
    assert 1000 < told["pictures_needed"] <= 1100
    assert told["summary"] in data["verdict"]


def test_int8_is_proven_if_the_pictures_show_it_and_not_if_it_loses_too_much():
    _, lines = judged(True, 0, 0)
    assert "verdict: proven: lost 0.00 points; at most 1.5 with 95 % confidence" in lines
    _, lines = judged(False, 6, 0)
    assert "lost at most 5.9 points, with 95 % confidence FAILED" in lines
    assert "verdict: not proven" in lines
    assert "the same top-1 97.00 %" in lines
    assert not any("changed for" in line for line in lines)


@pytest.mark.parametrize(("wrong", "doubtful"), [(10, False), (160, True)])
def test_labels_that_do_not_fit_are_told(wrong, doubtful):
    words = "in float32 only 20.00 % are right, so this says little"
    assert any(line.startswith(words) for line in judged(True, 0, 0, wrong)[1]) == doubtful


def test_a_long_path_cuts_no_figure_of_a_benchmark(capsys):
    row = {
        "name": "levit-deploy-demo/digits.onnx",
        "runtime": "onnxruntime",
        "batch_size": 1,
        "median_s": 0.01234,
        "p90_s": 0.0345,
        "images_per_s": 1234.5,
        "ratio": {"median": 1.75, "low": 1.59, "high": 1.82},
        "verdict": "faster",
        "of_matmul": 0.87,
        "size_bytes": 78e6,
        "load_s": 1.234,
    }
    data = {"network": "LeViT", "threads": 1, "rounds": 3, "processor": "one", "rows": [row]}
    print_benchmark({**data, "untimed": [], "gflops": {1: 33.2}}, console())
    line = next(
        line for line in capsys.readouterr().out.splitlines() if "digits" in line or "…" in line
    )
    for figure in ("12.34", "34.50", "1234.5", "1.75 (1.59-1.82)", "faster", "87%", "78.0", "1234"):
        assert figure in line


def test_one_line_tells_the_forms_that_were_not_timed_and_why(capsys):
    """As many forms as need a package have one reason."""
    forms = [("tokens", "litert"), ("int8", "litert"), ("bf16", "TorchScript")]
    reasons = {"litert": "It needs a package.", "TorchScript": "It crashed."}
    untimed = [{"name": n, "runtime": r, "reason": reasons[r]} for n, r in forms]
    data = {"network": "LeViT", "threads": 1, "rounds": 3, "processor": "one", "rows": []}
    print_benchmark({**data, "untimed": untimed, "gflops": {}}, console())
    assert capsys.readouterr().out.splitlines()[1:] == [
        "not timed: 2 forms for litert. It needs a package.",
        "not timed: bf16 for TorchScript. It crashed.",
    ]
