"""``levit-deploy predict`` as its user meets it."""

import csv
import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import scans
from command_line import run

from levit_deploy.pictures.files import find_pictures
from levit_deploy.prediction.predict import Answer
from levit_deploy.report.predictions import in_words
from levit_deploy.targets.load import load_artifact

# a quote, a comma, line breaks, an escape sequence, letters, a byte that is no UTF-8
ODD = ['say "a, b".png', "two\nlines.png", "back\rhere.png", "a\x1b[31mred.png"]
ODD += ["Zürich 猫.png", b"\xff.png"]
TORN = os.fsdecode(b"!torn\xff.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Scans below a folder, the artifact beside it, and that the current folder."""
    data = scans.with_metadata(scans.demo_artifact(), labels=json.dumps(scans.LABELS))
    (tmp_path / "digits.onnx").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return scans.save_scans(tmp_path / "scans", 8)


@pytest.fixture
def odd(folder):
    scan = find_pictures(folder)[0].read_bytes()
    for name in ODD:
        (folder / os.fsdecode(name)).write_bytes(scan)
    (folder / TORN).write_bytes(scan[:60])
    return folder


def printed_name(name):
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def test_a_line_for_each_picture(folder):
    code, out, err = run("predict", "digits.onnx", folder, "--top-k", "2", "--threads", "1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 8
    for line, path in zip(lines, find_pictures(folder), strict=True):
        label = scans.LABELS[int(path.parent.name)]
        assert line.startswith(f"{path}: {label} ")
        assert line.count(" %") == 2


def test_nothing_a_file_is_called_gets_out_of_its_line(odd):
    code, out, err = run("predict", "digits.onnx", odd)
    assert code == 0
    assert len(out.splitlines()) == 8 + len(ODD)
    assert "\x1b" not in out
    assert r"two\nlines.png" in out
    torn, total = err.splitlines()
    assert torn.startswith(rf"skipped: {odd}/!torn\xff.png cannot be read as a picture: ")
    assert total == "skipped 1 of 15 pictures"


def test_json_is_one_document_with_every_picture_in_order(odd):
    code, out, _ = run("predict", "digits.onnx", odd, "--json", "-", "--top-k", "3")
    assert code == 0
    data = json.loads(out)
    expected = [printed_name(path) for path in find_pictures(odd)]
    assert [picture["path"] for picture in data["pictures"]] == expected
    assert (data["answered"], data["skipped"]) == (14, 1)
    assert data["sha256"] == hashlib.sha256(Path("digits.onnx").read_bytes()).hexdigest()
    for picture in data["pictures"]:
        if picture["path"].endswith(r"!torn\xff.png"):
            assert picture["answers"] == []
            assert picture["problem"].startswith(f"{picture['path']} cannot be read")
        else:
            assert picture.keys() == {"path", "answers"}
            assert len(picture["answers"]) == 3
            best = picture["answers"][0]
            assert best["label"] == scans.LABELS[best["index"]]
            assert 0.5 < best["probability"] < 1
    code, printed, _ = run("predict", "digits.onnx", odd, "--json", "a.json", "--top-k", "3")
    assert (code, printed, json.loads(Path("a.json").read_text("utf-8"))) == (0, "", data)


def test_csv_has_a_row_for_each_answer(odd):
    code, out, _ = run("predict", "digits.onnx", odd, "--csv", "a.csv", "--top-k", "2")
    assert (code, out) == (0, "")
    with Path("a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    whole = [printed_name(path) for path in find_pictures(odd) if path.name != TORN]
    assert [row["path"] for row in rows] == [path for path in whole for _ in range(2)]
    assert [row["rank"] for row in rows] == ["1", "2"] * len(whole)
    assert all(row["label"] == scans.LABELS[int(row["index"])] for row in rows)
    assert all(0 < float(row["probability"]) < 1 for row in rows)
    _, out, _ = run("predict", "digits.onnx", odd, "--csv", "-", "--top-k", "2")
    assert list(csv.DictReader(io.StringIO(out, newline=""))) == rows


def test_output_is_utf8_wherever_it_goes(odd):
    command = [sys.executable, "-m", "levit_deploy", "predict", "digits.onnx", str(odd), "--csv=-"]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=env, check=True)
    assert "Zürich 猫.png" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("option", [("--json", "a.json"), ("--csv", "a.csv"), ()])
def test_where_nothing_can_be_read_nothing_is_written(folder, option):
    (folder / "a.png").write_text("no picture")
    os.mkfifo(folder / "b.png")
    before = sorted(Path().iterdir())
    code, out, err = run("predict", "digits.onnx", folder / "a.png", folder / "b.png", *option)
    assert (code, out) == (3, "")
    assert err.count("skipped: ") == 2
    assert "levit-deploy: No picture could be used." in err
    assert sorted(Path().iterdir()) == before


def test_json_on_standard_output_is_whole_if_no_picture_can_be_read(folder):
    (folder / "a.png").write_text("no picture")
    code, out, _ = run("predict", "digits.onnx", folder / "a.png", "--json", "-")
    assert code == 3
    data = json.loads(out)
    assert (data["answered"], data["skipped"], len(data["pictures"])) == (0, 1, 1)


@pytest.mark.usefixtures("folder")
def test_an_artifact_may_stand_below_any_name():
    folder = scans.save_scans(Path("classes"), 40)
    artifact = Path(os.fsdecode(b"caf\xe9")) / "a.onnx"
    artifact.parent.mkdir()
    artifact.write_bytes(scans.demo_artifact())
    code, out, err = run("predict", artifact, folder, "--json", "-")
    assert (code, err) == (0, "")
    assert json.loads(out)["artifact"] == r"caf\xe9/a.onnx"
    code, out, err = run("evaluate", artifact, folder, "--json", "a.json")
    assert (code, err) == (0, "")
    assert out.startswith(r"caf\xe9/a.onnx: ")
    assert json.loads(Path("a.json").read_text("utf-8"))["path"] == r"caf\xe9/a.onnx"


def test_a_label_is_printed_as_it_is():
    assert in_words(Answer(0, "50%", 0.5)) == "50% 50.00 %"
    assert in_words(Answer(7, "", 1.0)) == "class 7 100.00 %"


def test_quiet_prints_nothing_and_still_writes(odd):
    assert run("predict", "digits.onnx", odd, "-q", "--csv", "a.csv") == (0, "", "")
    assert run("predict", "digits.onnx", odd, "-q", "--csv", "a.csv", "--force") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("digits.onnx", "scans", "--json", "-", "--csv", "-"), 2, "were both given"),
        (("digits.onnx", "scans", "--top-k", "0"), 2, "--top-k"),
        (("digits.onnx", "scans", "--batch-size", "1000000000"), 2, "--batch-size"),
        (("digits.onnx", "scans", "--threads", "100000"), 2, "--threads"),
        (("digits.onnx", "scans", "nowhere.png"), 3, "nowhere.png cannot be read: No such"),
        (("digits.onnx", "empty"), 3, "has no pictures in it"),
        (("nowhere.onnx", "scans"), 3, "nowhere.onnx cannot be read"),
        (("scans", "scans"), 3, "scans is a folder. Expected an artifact"),
        (("digits.onnx", "scans", "--csv", "scans/a.png", "--force"), 5, "--csv"),
        (("digits.onnx", "a.png", "--json", "a.png", "--force"), 5, "own files"),
        (("digits.onnx", "a.png", "--csv", "digits.onnx", "--force"), 5, "own files"),
    ],
)
def test_what_is_refused_is_refused_before_anything_runs(folder, arguments, code, expected):
    Path("empty").mkdir()
    scan = find_pictures(folder)[0].read_bytes()
    for name in ("a.png", "scans/a.png"):
        Path(name).write_bytes(scan)
    found = run("predict", *arguments)
    assert found[:2] == (code, "")
    assert expected in found[2]


def start(*arguments, **options):
    command = [sys.executable, "-m", "levit_deploy", "predict", "digits.onnx", *arguments]
    # who starts the tests in the background has interrupts ignored, which is inherited
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heard, **options)


@pytest.fixture
def many(folder):
    """So many that they take minutes: a folder of a thousand, three hundred times."""
    scan = find_pictures(folder)[0].read_bytes()
    for i in range(1000):
        (folder / f"{i:04}.png").write_bytes(scan)
    return [folder] * 300


@pytest.mark.slow
def test_an_interrupt_ends_it_and_leaves_no_file(many, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    with start(*many, "--csv", "a.csv") as process:
        deadline = time.monotonic() + 60
        while not any(p.stat().st_size for p in tmp_path.glob(".a.csv.*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().startswith("levit-deploy: interrupted.")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_it_ends_when_its_reader_has_seen_enough(many):
    with start(*many, "--json", "-", stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""


def seen_on_a_terminal(until, *pictures, stdout=None):
    """What a terminal shows up to a text; standard output goes to it unless it goes to a file."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "levit_deploy", "predict", "digits.onnx", *pictures]
    env = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    subprocess.run(command, stdout=stdout or theirs, stderr=theirs, env=env, check=True)
    os.close(theirs)
    seen = b""
    while until not in seen:  # or the pty is at its end, which is an error
        seen += os.read(ours, 4096)
    os.close(ours)
    return seen


@pytest.mark.slow
def test_what_an_artifact_only_assumes_of_pictures_is_said(folder):
    path = Path("digits.onnx")
    metadata = load_artifact(path).metadata
    assumed = json.dumps(json.loads(metadata["preprocessing"]) | {"assumed": True})
    changes = {"preprocessing": assumed, "labels": json.dumps(list("0123456789"))}
    path.write_bytes(scans.with_metadata(path.read_bytes(), **changes))
    picture = find_pictures(folder)[0]
    for command in (("predict", path, picture), ("evaluate", path, folder)):
        code, _, err = run(*command, "--threads", "1")
        assert code == 0
        expected = "assumed: pictures are prepared as for ImageNet: crop 1.0, bilinear, mean "
        assert err.startswith(expected)
        assert err.count("\n") == 1
        assert run(*command, "--threads", "1", "--quiet")[2] == ""


@pytest.mark.slow
def test_a_terminal_is_shown_how_far_it_is(folder):
    paths = find_pictures(folder)
    with Path("a.txt").open("w") as file:
        assert b"8/8" in seen_on_a_terminal(b"images/s", *paths, stdout=file)
    assert len(Path("a.txt").read_text().splitlines()) == 8
    seen = seen_on_a_terminal(str(paths[0]).encode() + b": ", paths[0])
    assert b"answering the first picture" in seen
