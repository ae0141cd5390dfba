import json
import os

import pytest
import torch
from networks import SMALL, trained
from typer.testing import CliRunner

from levit_deploy.bench import pinned, random_network
from levit_deploy.bench.plot import plot
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.cli import app
from levit_deploy.exporters import ExportOptions
from levit_deploy.pipeline import export


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    torch.save({"model": trained().state_dict()}, folder / "ckpt.pth")
    bytes_taken = folder / "bytes.onnx"
    export(
        read_checkpoint(folder / "ckpt.pth"),
        "onnx",
        bytes_taken,
        options=ExportOptions(input="uint8", output="probabilities"),
    )
    arguments = ["bench", str(folder / "ckpt.pth"), str(bytes_taken)]
    arguments += ["--batch-size", "1,3", "--rounds", "4"]
    result = CliRunner().invoke(app, [*arguments, "--json", "-"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_every_form_is_there_at_every_batch_size(data):
    for size in (1, 3):
        forms = {(row["runtime"], row["name"]) for row in data["rows"] if row["batch_size"] == size}
        assert forms >= {
            ("onnxruntime", "plain export"),
            ("onnxruntime", "spatial"),
            ("onnxruntime", "tokens, opset 23"),
            ("torch", "original, eager"),
            ("TorchScript", "original, frozen"),
            ("TorchScript", "tokens"),
            ("TorchScript", "tokens, bf16"),
            ("onnxruntime", "int8"),
            ("onnxruntime", "int8, for VNNI"),
            ("onnxruntime", "plain export, int8"),
            ("onnxruntime", "bytes.onnx"),
        }


@pytest.mark.slow
def test_the_figures_of_a_row_agree_with_each_other(data):
    for row in data["rows"]:
        assert row["images_per_s"] == pytest.approx(row["batch_size"] / row["median_s"])
        assert row["p90_s"] >= row["median_s"] > 0
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
        if (row["runtime"], row["name"]) == ("onnxruntime", "plain export"):
            assert row["ratio"]["median"] == 1
            assert row["verdict"] == "level"
    assert set(data["gflops"]) == {"1", "3"}


@pytest.mark.slow
def test_a_picture_of_it(data, tmp_path):
    plot(data, str(tmp_path / "bench.png"))
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_batch_size_must_be_a_number(tmp_path):
    torch.save({"model": trained().state_dict()}, tmp_path / "ckpt.pth")
    arguments = ["bench", str(tmp_path / "ckpt.pth"), "--batch-size", "1,dynamic"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "dynamic cannot be timed" in result.stderr


def test_random_networks_have_nothing_to_simplify_away():
    model = random_network(SMALL)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert not (tensor == 0).any(), name
            assert not (tensor == 1).any(), name
    again = random_network(SMALL)
    assert torch.equal(model.head.l.weight, again.head.l.weight)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system cannot pin a process")
def test_the_process_is_pinned_to_as_many_processors_as_threads():
    allowed = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == torch.get_num_threads() == 1
    assert os.sched_getaffinity(0) == allowed
