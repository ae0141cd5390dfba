import dataclasses
import json
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from networks import SMALL, trained
from toy_target import MAGIC, TOY
from typer.testing import CliRunner

import levit_deploy
from levit_deploy.bench import benchmark as bench
from levit_deploy.bench import contender, contenders
from levit_deploy.bench.benchmark import pinned, random_network
from levit_deploy.bench.contender import Contender, Entry, here
from levit_deploy.bench.contenders import PLAIN
from levit_deploy.bench.plot import draw, plot
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.cli import app
from levit_deploy.errors import ArtifactError, BackendError, UsageError
from levit_deploy.pipeline import export
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.target import ExportOptions, Form

TINY = SMALL.replace(
    image_size=(32, 32),
    stages=(dataclasses.replace(SMALL.stages[0], depth=1),),
    downsamples=(),
)


@contextmanager
def opened_here(data, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact"
        path.write_bytes(data)
        yield load_artifact(path, threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    network = trained(TINY)  # torch.onnx takes a second for each block
    torch.save({"model": network.state_dict()}, folder / "ckpt.pth")
    bytes_taken = folder / "bytes.onnx"
    export(
        read_checkpoint(folder / "ckpt.pth"),
        "onnx",
        bytes_taken,
        options=ExportOptions(input="uint8", output="probabilities"),
    )
    arguments = ["bench", str(folder / "ckpt.pth"), str(bytes_taken), str(bytes_taken)]
    arguments += ["--batch-size", "1,3", "--rounds", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contender, "open_data", opened_here)  # a child imports torch for seconds
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
            ("torch.export", "tokens"),
            ("onnxruntime", "fp16"),
            ("onnxruntime", "int8, opset 17"),
            ("onnxruntime", "int8, opset 23"),
            ("onnxruntime", "plain export, int8"),
            ("onnxruntime", "plain export, dynamic int8"),
            ("openvino", "plain export"),
            ("openvino", "tokens"),
            ("onnxruntime", "bytes.onnx"),
        }
        fixed = [name for _, name in forms if "batch" in name]
        assert fixed if size == 1 else not fixed  # the first size


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
    made = here(lambda images: plain.run(None, {"pixel_values": images}))
    baseline = Entry(PLAIN, "onnxruntime", lambda: made)
    monkeypatch.setattr(bench, "entries", lambda *_, **__: [baseline])
    checkpoint = levit_deploy.load(folder / "ckpt.pth")
    paths = [folder / "free" / "x.onnx", folder / "four" / "x.onnx"]
    choices = {"network": "it", "artifacts": paths, "rounds": 2}
    found = bench.benchmark(checkpoint.model, checkpoint.config, batch_sizes=(1, 4), **choices)
    names = {size: [r.name for r in found.rows if r.batch_size == size] for size in (1, 4)}
    assert names == {1: [PLAIN, str(paths[0])], 4: [PLAIN, *map(str, paths)]}
    assert len({row.median_s for row in found.rows}) == len(found.rows)
    with pytest.raises(UsageError, match=r"takes batches of 4 only\. Give --batch-size 1,4"):
        bench.benchmark(checkpoint.model, checkpoint.config, batch_sizes=(1,), **choices)
    other = random_network(SMALL.replace(image_size=(32, 32)))
    with pytest.raises(ArtifactError, match="Give artifacts of this network"):
        bench.benchmark(other, SMALL.replace(image_size=(32, 32)), **choices)


def timed_as(seconds):
    """A contender with these times, one by one; an exception among them is raised."""
    left = iter(seconds)

    def timer(_images):
        taken = next(left)
        if isinstance(taken, Exception):
            raise taken
        return taken

    return Contender(seconds=timer)


def bench_of(monkeypatch, *entries, **choices):
    """The benchmark of these entries, with two rounds after the three that warm up."""
    monkeypatch.setattr(bench, "entries", lambda *_, **__: entries)
    return bench.benchmark(
        trained(TINY), TINY, network="it", **{"batch_sizes": (1,), "rounds": 2} | choices
    )


def test_what_fails_is_told_and_all_others_are_timed(monkeypatch):
    def cannot_be_made():
        raise UsageError("It needs a package.")

    crashed = BackendError("The process crashed.")
    found = bench_of(
        monkeypatch,
        Entry(PLAIN, "onnxruntime", lambda: timed_as([0.02] * 10)),
        Entry("tokens", "one", cannot_be_made),
        Entry("spatial", "one", lambda: timed_as([0.01] * 4 + [crashed])),
        Entry("tokens", "two", lambda: timed_as([0.01, RuntimeError("bad\nlines")])),
        Entry("spatial", "two", lambda: timed_as([0.01] * 10)),
        batch_sizes=(1, 2),
    )
    assert [(row.name, row.runtime, row.batch_size, row.ratio.median) for row in found.rows] == [
        (PLAIN, "onnxruntime", 1, 1),
        ("spatial", "two", 1, 2),
        (PLAIN, "onnxruntime", 2, 1),
        ("spatial", "two", 2, 2),
    ]
    assert {(form.name, form.runtime): form.reason for form in found.untimed} == {
        ("tokens", "one"): "It needs a package.",
        ("spatial", "one"): "The process crashed.",
        ("tokens", "two"): "RuntimeError: bad.",
    }
    assert len(found.untimed) == 3


def test_without_the_plain_export_there_is_nothing_to_compare_with(monkeypatch):
    for seconds in ([BackendError("It crashed.")], [0.02, BackendError("It crashed.")]):
        with pytest.raises(BackendError, match="It crashed"):
            bench_of(monkeypatch, Entry(PLAIN, "onnxruntime", lambda s=seconds: timed_as(s)))


def test_the_chosen_runtimes_are_timed_against_the_plain_export(monkeypatch):
    made, told = [], []

    def entry(name, runtime):
        return Entry(name, runtime, lambda: made.append(name) or timed_as([0.01] * 5))

    found = bench_of(
        monkeypatch,
        entry(PLAIN, "onnxruntime"),
        entry("tokens", "onnxruntime"),
        entry("frozen", "TorchScript"),
        runtimes=["torchscript"],
        progress=told.append,
    )
    assert made == [row.name for row in found.rows] == [PLAIN, "frozen"]
    assert told[:2] == ["making plain export for onnxruntime", "making frozen for TorchScript"]


def test_a_library_that_rounds_gets_noise_and_a_fixed_batch(monkeypatch):
    """The first of the batches that are timed."""
    calls = []

    def rounded(model, provenance, options, images):
        calls.append((provenance.precision, options.batch_size, images.shape[1:]))
        return lambda provenance: TOY.serialize(model, provenance, options)

    forms = (Form("tokens", "tokens"), Form("int8", "tokens", "int8-dynamic"))
    toy = dataclasses.replace(TOY, forms=forms, batch_size=1, rounded=rounded)
    monkeypatch.setitem(contenders.TARGETS, "toy", toy)
    monkeypatch.setattr(contenders, "in_child", lambda file, *_: file())
    with ExitStack() as children:
        arguments = {"batch_size": 3, "threads": 1, "children": children}
        found = list(contenders.entries(trained(TINY), TINY, "mean", **arguments))
    toys = {entry.name: entry for entry in found if entry.runtime == toy.runtime}
    assert list(toys) == ["tokens, batch 3", "int8, batch 3"]
    assert toys["int8, batch 3"].make().startswith(MAGIC)
    assert calls == [("int8-dynamic", 3, (3, 32, 32))]


def test_every_runtime_can_be_chosen():
    with ExitStack() as children:
        arguments = {"batch_size": 1, "threads": 1, "children": children}
        found = list(contenders.entries(trained(TINY), TINY, "mean", **arguments))
    assert {entry.runtime.lower() for entry in found} == {*contenders.RUNTIMES}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["LeViT-128S", "--image-size", "64"], 2, "are for checkpoints"),
        (["levit-128s"], 3, "one of LeViT-128S"),
        (["LeViT-128S", "--runtime", "torch,tvm"], 2, "'tvm' is not one of onnxruntime, openvino"),
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
