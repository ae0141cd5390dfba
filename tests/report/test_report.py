import io
import json

import pytest
from networks import GOLDENS
from rich.console import Console

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.report import (
    console,
    print_benchmark,
    print_verification,
    print_verified,
    to_json,
    verification_data,
)
from levit_deploy.report.proof import _accuracy
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


def test_one_picture_is_not_told_as_several():
    data = {"pictures": 1, "agreement": 100.0, "float_top1": None, "int8_top1": None}
    data |= {"drop": 0.0, "allowed": 0.3, "failures": []}
    assert str(_accuracy(data)).startswith("on 1 picture: ")
    assert str(_accuracy(data | {"pictures": 2})).startswith("on 2 pictures: ")


@pytest.mark.parametrize(("top1", "doubtful"), [(80.0, False), (23.2, True), (None, False)])
def test_labels_that_do_not_fit_are_told(top1, doubtful):
    data = {"pictures": 300, "agreement": 84.2, "float_top1": top1, "int8_top1": top1}
    data |= {"drop": 0.0, "allowed": 0.3, "failures": []}
    assert ("so this says little" in str(_accuracy(data))) == doubtful


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
    print_benchmark({**data, "gflops": {1: 33.2}}, console())
    line = next(
        line for line in capsys.readouterr().out.splitlines() if "digits" in line or "…" in line
    )
    for figure in ("12.34", "34.50", "1234.5", "1.75 (1.59-1.82)", "faster", "87%", "78.0", "1234"):
        assert figure in line
