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
from test_cli import run

from levit_deploy.pictures import find_pictures
from levit_deploy.runtime.artifact import load_artifact

# a quote, a comma, a line break, an escape sequence, letters, a byte that is no UTF-8
ODD = ['say "a, b".png', "two\nlines.png", "a\x1b[31mred.png", "Zürich 猫.png", b"\xff.png"]


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
    (folder / "!torn.png").write_bytes(scan[:60])
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
    assert torn.startswith(f"skipped: {odd / '!torn.png'} cannot be read as a picture: ")
    assert total == "skipped 1 of 14 pictures"


def test_json_is_one_document_with_every_picture_in_order(odd):
    code, out, _ = run("predict", "digits.onnx", odd, "--json", "-", "--top-k", "3")
    assert code == 0
    data = json.loads(out)
    expected = [printed_name(path) for path in find_pictures(odd)]
    assert [picture["path"] for picture in data["pictures"]] == expected
    assert (data["answered"], data["skipped"]) == (13, 1)
    assert data["sha256"] == hashlib.sha256(Path("digits.onnx").read_bytes()).hexdigest()
    for picture in data["pictures"]:
        if picture["path"].endswith("!torn.png"):
            assert picture["answers"] == []
            assert "cannot be read" in picture["problem"]
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
    whole = [printed_name(path) for path in find_pictures(odd) if path.name != "!torn.png"]
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


def test_quiet_prints_nothing_and_still_writes(odd):
    assert run("predict", "digits.onnx", odd, "-q", "--csv", "a.csv") == (0, "", "")
    assert run("predict", "digits.onnx", odd, "-q", "--csv", "a.csv", "--force") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("digits.onnx", "scans", "--json", "-", "--csv", "-"), 2, "were both given"),
        (("digits.onnx", "scans", "--top-k", "0"), 2, "--top-k"),
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


@pytest.mark.slow
def test_a_terminal_is_shown_how_far_it_is(folder):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "levit_deploy", "predict", "digits.onnx", folder]
    env = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=env, check=True)
    os.close(theirs)
    seen = b""
    while b"images/s" not in seen:  # or the pty is at its end, which is an error
        seen += os.read(ours, 4096)
    os.close(ours)
    assert b"8/8" in seen
    assert len(done.stdout.splitlines()) == 8


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
