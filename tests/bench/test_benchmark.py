import json
import os
from pathlib import Path

import pytest
import torch
from networks import SMALL, trained
from typer.testing import CliRunner

import levit_deploy
from levit_deploy.bench import benchmark as bench
from levit_deploy.bench.benchmark import pinned, random_network
from levit_deploy.bench.contender import Contender
from levit_deploy.bench.plot import draw, plot
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.cli import app
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.pipeline import export
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.target import ExportOptions


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
    arguments = ["bench", str(folder / "ckpt.pth"), str(bytes_taken), str(bytes_taken)]
    arguments += ["--batch-size", "1,3", "--rounds", "4"]
    result = CliRunner().invoke(app, [*arguments, "--json", "-"])
    assert result.exit_code == 0, result.output
    assert "assumed: the activation is hardswish" in result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_every_form_is_there_at_every_batch_size(data):
    for size in (1, 3):
        forms = [
            (row["runtime"], Path(row["name"]).name)
            for row in data["rows"]
            if row["batch_size"] == size
        ]
        assert len(set(forms)) == len(forms)  # the artifact, given twice, too
        assert set(forms) >= {
            ("onnxruntime", "plain export"),
            ("onnxruntime", "spatial"),
            ("onnxruntime", "tokens, opset 23"),
            ("torch", "original, eager"),
            ("TorchScript", "original, frozen"),
            ("TorchScript", "tokens"),
            ("TorchScript", "bf16"),
            ("onnxruntime", "fp16"),
            ("onnxruntime", "int8, opset 17"),
            ("onnxruntime", "int8, opset 23"),
            ("onnxruntime", "plain export, int8"),
            ("onnxruntime", "plain export, dynamic int8"),
            ("openvino", "plain export"),
            ("openvino", "tokens"),
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


def test_a_bar_is_beside_its_figures_where_two_have_one_name():
    """Of one name, matplotlib made one bar, and every figure above it moved."""
    speeds = {"plain export": 1.0, "spatial": 1.5}
    rows = [
        {
            "name": name,
            "runtime": "onnxruntime",
            "batch_size": 1,
            "median_s": 0.01 / speed,
            "ratio": {"low": speed - 0.1, "median": speed, "high": speed + 0.1},
            "verdict": "level",
        }
        for name, speed in (*speeds.items(), ("spatial", 2.0))
    ]
    data = {"rows": rows, "threads": 1, "network": "it", "processor": "one"}
    (panel,) = draw(data).axes
    bars = {bar.get_y() + bar.get_height() / 2: bar.get_width() for bar in panel.patches}
    texts = {text.xy[1]: text.get_text() for text in panel.texts}
    assert sorted(bars.values()) == [1, 1.5, 2]
    assert {place: f" {width:.2f}x, {10 / width:.1f} ms" for place, width in bars.items()} == texts
    ticks = dict(zip(panel.get_yticks(), panel.get_yticklabels(), strict=True))
    assert [ticks[place].get_text() for place in sorted(ticks, reverse=True)] == [
        f"{row['name']}, onnxruntime" for row in rows
    ]


def test_a_batch_size_must_be_a_number(tmp_path):
    torch.save({"model": trained().state_dict()}, tmp_path / "ckpt.pth")
    arguments = ["bench", str(tmp_path / "ckpt.pth"), "--batch-size", "1,dynamic"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "dynamic cannot be timed" in result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    torch.save({"model": trained().state_dict()}, folder / "ckpt.pth")
    checkpoint = levit_deploy.load(folder / "ckpt.pth")
    for name, batch in (("free", None), ("four", 4)):
        (folder / name).mkdir()
        options = levit_deploy.ExportOptions(batch_size=batch)
        levit_deploy.export(checkpoint, "onnx", folder / name / "x.onnx", options=options)
    return folder


def test_each_artifact_is_timed_for_itself(folder, monkeypatch):
    """Two of one name had one time between them."""
    plain = onnx_session((folder / "free" / "x.onnx").read_bytes(), 1)
    run = lambda images: plain.run(None, {"pixel_values": images})  # noqa: E731
    monkeypatch.setattr(
        bench, "contenders", lambda *_: [Contender(name="plain", runtime="onnxruntime", run=run)]
    )
    checkpoint = levit_deploy.load(folder / "ckpt.pth")
    paths = [folder / "free" / "x.onnx", folder / "four" / "x.onnx"]
    choices = {"network": "it", "artifacts": paths, "rounds": 2}
    found = bench.benchmark(checkpoint.model, checkpoint.config, batch_sizes=(1, 4), **choices)
    names = {size: [r.name for r in found.rows if r.batch_size == size] for size in (1, 4)}
    assert names == {1: ["plain", str(paths[0])], 4: ["plain", *map(str, paths)]}
    assert len({row.median_s for row in found.rows}) == len(found.rows)
    with pytest.raises(UsageError, match=r"takes batches of 4 only\. Give --batch-size 1,4"):
        bench.benchmark(checkpoint.model, checkpoint.config, batch_sizes=(1,), **choices)
    other = random_network(SMALL.replace(image_size=(32, 32)))
    with pytest.raises(ArtifactError, match="Give artifacts of this network"):
        bench.benchmark(other, SMALL.replace(image_size=(32, 32)), **choices)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["LeViT-128S", "--image-size", "64"], 2, "are for checkpoints"),
        (["levit-128s"], 3, "one of LeViT-128S"),
        (["LeViT-128S", "missing.onnx"], 3, "missing.onnx cannot be read"),
        (["LeViT-128S", "x.onnx", "--plot", "x.onnx", "--force"], 5, "one of this command's own"),
        (["LeViT-128S", "x.onnx", "--json", "x.onnx", "--force"], 5, "one of this command's own"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_anything_is(
    folder, monkeypatch, arguments, code, words
):
    monkeypatch.chdir(folder / "free")
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == code
    assert words in result.stderr


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


def test_more_threads_than_processors_are_refused():
    with pytest.raises(UsageError, match="--threads 4096"), pinned(4096):
        pass


@pytest.mark.study
def test_a_network_without_a_head_is_timed_as_it_is(tmp_path):
    network = trained(SMALL.replace(image_size=(96, 128)))
    state = {k: t for k, t in network.state_dict().items() if not k.startswith("head")}
    torch.save(state, tmp_path / "ckpt.pth")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pth", image_size=(96, 128))
    given = []
    for output in ("features", "feature-maps"):
        given.append(tmp_path / f"{output}.onnx")
        export(checkpoint, "onnx", given[-1], options=ExportOptions(output=output))
    found = bench.benchmark(
        checkpoint.model,
        checkpoint.config,
        network="headless",
        artifacts=given,
        batch_sizes=[1],
        rounds=2,
    )
    names = [row.name for row in found.rows]
    assert {"spatial", "tokens", "tokens, batch 1", *map(str, given)} <= {*names}
