"""``optimize`` finds, proves and publishes the fastest: on real runtimes, or on stub timings."""

import json
import shlex
from collections import Counter
from types import SimpleNamespace

import onnx
import pytest
import torch
from command_line import run
from networks import TINY, trained
from onnx import numpy_helper

import levit_deploy
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import LABELS, PREPROCESSING
from levit_deploy.errors import OutputError, UsageError, VerificationError
from levit_deploy.optimization.candidate import candidates
from levit_deploy.optimization.contest import Contest
from levit_deploy.optimization.race import LOOKS
from levit_deploy.optimization.rules import Limits, Wishes
from levit_deploy.quantization.quantize import Int8Options

SEVEN = LABELS[:7]
SPATIAL, OPSET_23 = "spatial, onnxruntime", "tokens, opset 23, onnxruntime"
INT8, INT8_17 = "int8, opset 23, onnxruntime", "int8, opset 17, onnxruntime"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder: its checkpoint, and real scans in class folders."""
    folder = tmp_path_factory.mktemp("demo")
    read_demo_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def digits(demo):
    return levit_deploy.load(demo / "digits.pth", preprocessing=PREPROCESSING, labels=LABELS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network that is made and proven sooner, for what no picture has to judge."""
    path = tmp_path_factory.mktemp("checkpoint") / "ckpt.pth"
    torch.save(trained(TINY).state_dict(), path)
    return levit_deploy.load(path, image_size=TINY.image_size, labels=SEVEN)


@pytest.fixture
def timings(monkeypatch):
    """Stub timings: seconds of each form by its label, one second for any other."""
    seconds = {}
    monkeypatch.setattr(Contest, "_seconds", lambda _, entrant: seconds.get(entrant.label, 1.0))
    return seconds


def fates(optimization):
    return {result.candidate.label: result for result in optimization.results}


def record(folder):
    return json.loads((folder / "optimize.json").read_text())


@pytest.mark.isolated
@pytest.mark.slow
def test_the_winner_is_timed_in_a_process_and_proven(digits, tmp_path):
    out = tmp_path / "out"
    told = []
    best = levit_deploy.optimize(digits, out, runtimes=["onnxruntime"], progress=told.append)
    assert best.path == out / "digits.onnx"
    assert {path.name for path in out.iterdir()} == {
        "digits.onnx",
        "optimize.json",
        "optimize.html",
    }
    assert levit_deploy.verify(digits, best.path).passed
    assert best.winner.verification.passed
    for result in best.results:
        assert result.size_bytes > 100_000
        if result.state == "slower":
            fastest = min(other.median_s for other in best.results)
            assert result.median_s > fastest
    assert best.complete
    for step in ("making", "timing", "proving"):
        assert any(words.startswith(step) for words in told)


def test_the_record_has_commands_that_make_every_file_again(checkpoint, tmp_path, timings):
    out = tmp_path / "out"
    timings[OPSET_23] = 0.5
    given = [str(checkpoint.path), "--image-size", "32", "--labels", str(tmp_path / "labels.txt")]
    (tmp_path / "labels.txt").write_text("\n".join(SEVEN))
    levit_deploy.optimize(checkpoint, out, runtimes=["onnxruntime"], keep_all=True, given=given)
    files = {}
    for row in record(out)["candidates"]:
        if row["state"] == "left out":
            continue
        kept = out / (row["file"] or "ckpt.onnx")
        command = shlex.split(row["command"])
        command[-1] = str(tmp_path / kept.name)
        assert command[:2] == ["levit-deploy", "export"]
        assert run(*command[1:])[0] == 0
        assert (tmp_path / kept.name).read_bytes() == kept.read_bytes()
        files[row["label"]] = kept
    assert len(set(files.values())) == 3
    assert files[OPSET_23] == out / "ckpt.onnx"
    # again, over its own folder
    with pytest.raises(OutputError, match="exists already"):
        levit_deploy.optimize(checkpoint, out, runtimes=["onnxruntime"])
    levit_deploy.optimize(checkpoint, out, runtimes=["onnxruntime"], force=True)
    assert not (out / "candidates").exists()


@pytest.mark.slow
def test_a_rounded_winner_is_judged_on_pictures(demo, digits, tmp_path, timings):
    timings |= {INT8: 0.5, INT8_17: 0.6, OPSET_23: 0.8}
    best = levit_deploy.optimize(
        digits, tmp_path / "out", images=demo / "scans", runtimes=["onnxruntime"], max_drop=1
    )
    results = fates(best)
    assert best.winner.candidate.label == INT8
    verification = levit_deploy.verify(digits, best.path, images=demo / "scans", max_drop=1)
    assert verification.passed
    assert best.winner.drop == max(verification.accuracy.drop, 0)
    assert best.winner.speed.median == 2
    # the fastest that is not rounded is proven, too; the other int8 was rounded on noise
    assert results[OPSET_23].drop == 0
    assert results[SPATIAL].drop is None
    assert results[INT8_17].state == "slower"
    assert "not judged" in results[INT8_17].reason
    row = next(r for r in record(tmp_path / "out")["candidates"] if r["label"] == INT8)
    assert row["accuracy"]["pictures"] == 360 - 64  # the others calibrate
    assert f"--images {demo / 'scans'} --max-drop 1 --even-if-slower" in row["command"]


@pytest.mark.parametrize("left_in_float", [(), ("blocks.1",)])
def test_what_was_rounded_is_timed_again_if_layers_are_left_in_float(
    checkpoint, tmp_path, monkeypatch, left_in_float
):
    several, _ = candidates(checkpoint, ("onnxruntime",), Wishes(), judged=True)
    limits = Limits(threads=1, time_limit=9, int8=Int8Options(tmp_path))
    contest = Contest(several, limits, 1, tmp_path)
    entrant = contest.entrants[INT8]

    def rounded(*_arguments, **_options):
        entrant.path.write_bytes(b"")
        return SimpleNamespace(quantization=SimpleNamespace(left_in_float=left_in_float))

    monkeypatch.setattr("levit_deploy.optimization.contest.quantize", rounded)
    contest.times[INT8] = {0: 1.0}
    contest._prove(entrant)
    assert (INT8 in contest.times) == (not left_in_float)


@pytest.mark.slow
def test_if_the_guard_refuses_the_fastest_the_next_one_wins(demo, digits, tmp_path, timings):
    """With 100 points allowed, pictures cannot tell a good int8 network from any other."""
    timings |= {INT8: 0.5, INT8_17: 1.2, OPSET_23: 0.8}
    best = levit_deploy.optimize(
        digits, tmp_path / "out", images=demo / "scans", runtimes=["onnxruntime"], max_drop=100
    )
    results = fates(best)
    assert best.winner.candidate.label == OPSET_23
    assert results[INT8].state == "refused"
    assert "cannot be judged" in results[INT8].reason
    assert results[INT8_17].state == "slower"  # than one that is not rounded: not even tried
    assert best.remarks == (
        f"levit-deploy export writes {SPATIAL}, by default. Here --opset 23 makes it 1.25 times as "
        "fast.",
    )


def test_a_wrong_file_is_refused_and_the_next_one_wins(checkpoint, tmp_path, timings, monkeypatch):
    timings |= {OPSET_23: 0.5, "tokens, onnxruntime": 0.7}
    make = Contest._make

    def sabotaged(contest, entrant):
        make(contest, entrant)
        if entrant.label == OPSET_23:
            proto = onnx.load(entrant.path)
            weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
            weight.CopyFrom(
                numpy_helper.from_array(1.1 * numpy_helper.to_array(weight), weight.name)
            )
            onnx.save(proto, entrant.path)

    monkeypatch.setattr(Contest, "_make", sabotaged)
    best = levit_deploy.optimize(checkpoint, tmp_path / "out", runtimes=["onnxruntime"])
    assert best.winner.candidate.label == "tokens, onnxruntime"
    result = fates(best)[OPSET_23]
    assert result.state == "refused"
    assert "computes another function" in result.reason
    assert result.drop is None


@pytest.mark.usefixtures("timings")
def test_of_equals_the_simplest_is_published(tmp_path):
    state = trained().state_dict()
    best = levit_deploy.optimize(state, tmp_path / "out", runtimes=["onnxruntime"])
    assert best.winner.candidate.label == SPATIAL
    command = record(tmp_path / "out")["candidates"][0]["command"]
    assert command == "levit-deploy export CHECKPOINT -o levit.onnx"  # a dict has no path
    others = [result for result in best.results if result is not best.winner]
    assert {result.state for result in others} == {"level"}
    assert OPSET_23 in best.winner.reason
    assert best.remarks == ()


def test_what_is_too_large_is_excluded_and_half_precision_is_judged(
    demo, digits, tmp_path, timings
):
    timings |= {SPATIAL: 0.5, INT8: 2.0, INT8_17: 2.0}
    options = {"images": demo / "scans", "runtimes": ["onnxruntime"], "max_size": 0.5}
    best = levit_deploy.optimize(digits, tmp_path / "out", max_drop=1, **options)
    assert best.winner.candidate.label == "fp16, onnxruntime"
    assert best.winner.size_bytes < 500_000
    assert fates(best)[SPATIAL].state == "excluded"
    # against scans and labels: float32 errs on 3 of 360 (the demo's table)
    accuracy = best.winner.verification.accuracy
    assert accuracy.pictures == 360
    assert accuracy.float_top1 == pytest.approx(99.17, abs=0.01)
    evaluation = levit_deploy.evaluate(best.path, demo / "scans")
    assert best.winner.drop == max(accuracy.float_top1 - evaluation.top1, 0)
    # pictures that allow any loss judge nothing
    with pytest.raises(VerificationError, match="Nothing was published") as error:
        levit_deploy.optimize(digits, tmp_path / "none", max_drop=100, max_latency=1500, **options)
    (fp16,) = (r for r in error.value.evidence.results if "fp16" in r.candidate.label)
    assert fp16.state == "refused"
    assert "fp16 cannot be judged" in fp16.reason


def test_if_nothing_is_fast_enough_nothing_is_published(checkpoint, tmp_path, timings):
    timings[OPSET_23] = 0.5
    with pytest.raises(VerificationError, match=rf"fastest form is {OPSET_23}, with 500") as error:
        levit_deploy.optimize(
            checkpoint, tmp_path / "out", runtimes=["onnxruntime"], max_latency=400
        )
    assert list(tmp_path.iterdir()) == []
    evidence = error.value.evidence
    assert evidence.winner is None
    assert {result.state for result in evidence.results} == {"excluded"}


def test_interrupted_it_says_what_it_knew(checkpoint, tmp_path, timings):
    timings[OPSET_23] = 0.5
    known = []

    def progress(doing):
        if doing.startswith("proving"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        levit_deploy.optimize(
            checkpoint,
            tmp_path / "out",
            runtimes=["onnxruntime"],
            progress=progress,
            interrupted=known.append,
        )
    assert list(tmp_path.iterdir()) == []
    (optimization,) = known
    assert not optimization.complete
    assert optimization.winner is None
    assert fates(optimization)[OPSET_23].speed.median == 2


def test_interrupted_after_the_winner_it_tells_no_path(checkpoint, tmp_path, timings, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    timings[OPSET_23] = 0.5
    known = []
    monkeypatch.setattr(Contest, "_fastest_exact", interrupted)
    with pytest.raises(KeyboardInterrupt):
        levit_deploy.optimize(
            checkpoint, tmp_path / "out", runtimes=["onnxruntime"], interrupted=known.append
        )
    assert list(tmp_path.iterdir()) == []
    assert known[0].winner.candidate.label == OPSET_23
    assert known[0].winner.verification.passed
    assert known[0].path is None


def test_if_the_fastest_are_too_slow_by_the_end_another_may_fit(checkpoint, tmp_path, monkeypatch):
    """The machine is three times as slow once SPATIAL has dropped out."""
    turns = Counter()

    def seconds(_, entrant):
        turn = turns[entrant.label]
        turns[entrant.label] += 1
        machine = 1 if turn < LOOKS[0] else 3
        if entrant.label == SPATIAL:
            return 0.6 * machine
        wave = 0.05 if turn % 2 else -0.05  # so that the two are not level at once
        return 0.5 * machine * (1 + wave if entrant.label == OPSET_23 else 1 - wave)

    monkeypatch.setattr(Contest, "_seconds", seconds)
    best = levit_deploy.optimize(
        checkpoint, tmp_path / "out", runtimes=["onnxruntime"], max_latency=700
    )
    assert fates(best)[OPSET_23].state == "excluded"
    assert best.winner.candidate.label == SPATIAL
    assert best.winner.rounds == LOOKS[0]


@pytest.mark.usefixtures("timings")
def test_a_time_limit_ends_the_making(checkpoint, tmp_path):
    best = levit_deploy.optimize(
        checkpoint, tmp_path / "out", runtimes=["onnxruntime"], time_limit=1e-3
    )
    assert best.winner.candidate.label == SPATIAL  # the first is made in any case
    assert best.winner.verification.passed
    assert not best.complete
    assert "--time-limit" in fates(best)[OPSET_23].reason


@pytest.mark.usefixtures("timings")
def test_a_form_that_fails_is_told_and_no_more(checkpoint, tmp_path, monkeypatch):
    make = Contest._make

    def failing(contest, entrant):
        if entrant.label == SPATIAL:
            raise RuntimeError("no such thing\nat all")
        make(contest, entrant)

    monkeypatch.setattr(Contest, "_make", failing)
    best = levit_deploy.optimize(checkpoint, tmp_path / "out", runtimes=["onnxruntime"])
    assert best.baseline == "tokens, onnxruntime"
    result = fates(best)[SPATIAL]
    assert (result.state, result.reason) == ("failed", "RuntimeError: no such thing.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_drop": 1}, "--max-drop and --confident are for rounded networks"),
        ({"max_latency": 0}, "--max-latency 0 is not a positive number"),
        ({"runtimes": []}, "No runtime was named"),
        ({"runtimes": ["tpu"]}, "--runtime 'tpu' is not one of onnxruntime"),
        ({"threads": 4096}, "--threads 4096 is more than this process may use"),
    ],
)
def test_what_makes_no_sense_is_refused(checkpoint, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        levit_deploy.optimize(
            checkpoint, tmp_path / "out", **{"runtimes": ["onnxruntime"], **options}
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_others_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="levit-deploy did not write"):
        levit_deploy.optimize(checkpoint, tmp_path, runtimes=["onnxruntime"], force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
