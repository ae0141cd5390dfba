"""Whatever ends a run, the destination holds the old bytes or the complete new ones."""

import errno
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from command_line import run

OLD, NEW = b"old" * 1000, b"new" * 100_000

# Publishes NEW, and is hit at the k-th step that touches the disk: killed, or given an error.
PROGRAM = """
import os, pathlib, random, signal, sys, time
from pathlib import Path
destination, step, error = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
pause = float(sys.argv[4])  # seconds, at most, before and after every step
count = 0

def hit():
    global count
    count += 1
    time.sleep(pause * random.random())
    if count == step:
        if error:
            raise OSError(error, os.strerror(error))
        os.kill(os.getpid(), signal.SIGKILL)

def around(function):
    def wrapped(*args, **kwargs):
        hit()
        result = function(*args, **kwargs)
        hit()
        return result
    return wrapped

os.fsync = around(os.fsync)
os.open = around(os.open)
for name in ("touch", "replace", "unlink"):
    setattr(Path, name, around(getattr(Path, name)))

from levit_deploy.errors import OutputError
from levit_deploy.publish.file import staged, sync
new = b"new" * 100_000
try:
    with staged(destination, sources=(), force=True) as temporary:
        with temporary.open("wb") as file:
            for start in range(0, len(new), 100_000):
                hit()
                file.write(new[start : start + 100_000])
                file.flush()
        sync(temporary)
        assert temporary.read_bytes() == new
except OutputError:
    print(count)
    sys.exit(5)
print(count)
"""


def publish(destination, step=0, error=0):
    command = [sys.executable, "-c", PROGRAM, str(destination), str(step), str(error), "0"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def destination(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(OLD)
    return path


def temporaries(folder):
    return [path.name for path in folder.iterdir() if path.name != "out.bin"]


def steps(tmp_path):
    done = publish(tmp_path / "out.bin")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_killed_at_every_step_the_destination_is_whole(destination, tmp_path):
    n = steps(tmp_path)
    assert n > 15
    outcomes = set()
    for step in range(1, n + 1):
        destination.write_bytes(OLD)
        assert publish(destination, step).returncode == -signal.SIGKILL
        outcomes.add(destination.read_bytes())
        left = temporaries(tmp_path)
        assert len(left) <= 1
        assert all(
            name.startswith(".out.bin.") and name.endswith(".levit-deploy.tmp") for name in left
        )
        assert publish(destination).returncode == 0  # which also clears up
        assert temporaries(tmp_path) == []
        assert destination.read_bytes() == NEW
    assert outcomes == {OLD, NEW}


@pytest.mark.parametrize(
    ("error", "every"), [(errno.ENOSPC, 1), (errno.EIO, 5), (errno.EROFS, 5), (errno.EDQUOT, 5)]
)
def test_an_error_at_any_step_is_exit_5_and_leaves_the_destination_whole(
    error, every, destination, tmp_path
):
    n = steps(tmp_path)
    for step in range(every, n + 1, every):
        destination.write_bytes(OLD)
        done = publish(destination, step, error)
        assert "Traceback" not in done.stderr
        published = destination.read_bytes()
        # an error after the rename, from syncing the folder or from tidying up, comes too late
        assert done.returncode == (5 if published == OLD else done.returncode)
        assert done.returncode in (0, 5)
        assert published in (OLD, NEW)
        for path in tmp_path.iterdir():  # only where removing itself failed
            if path.name != "out.bin":
                assert path.name.endswith(".levit-deploy.tmp")
                path.unlink()


def test_files_of_others_and_of_those_at_work_are_left_alone(destination, tmp_path):
    kept = [".out.bin.12.levit-deploy.tmp.bak", ".other.bin.12.levit-deploy.tmp", "out.bin.12.tmp"]
    for name in kept:
        (tmp_path / name).write_text("somebody's")
    (tmp_path / ".out.bin.99.levit-deploy.tmp").symlink_to(tmp_path / kept[0])
    (tmp_path / ".out.bin.98.levit-deploy.tmp").mkdir()
    (tmp_path / ".out.bin.97.levit-deploy.tmp").write_text("abandoned")
    assert publish(destination).returncode == 0
    expected = {*kept, ".out.bin.99.levit-deploy.tmp", ".out.bin.98.levit-deploy.tmp"}
    assert set(temporaries(tmp_path)) == expected


@pytest.mark.slow
def test_two_at_once_do_not_disturb_each_other(destination):
    command = [sys.executable, "-c", PROGRAM, str(destination), "0", "0", "0.02"]
    for _ in range(8):
        running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
        assert [process.wait() for process in running] == [0, 0, 0, 0]
        assert destination.read_bytes() == NEW
        assert temporaries(destination.parent) == []


# The whole command


def export(folder):
    return [sys.executable, "-m", "levit_deploy", "export", str(folder / "ckpt.pth"), "--force"]


def test_killed_at_work_the_command_leaves_what_the_next_one_tidies_up(folder, proven):
    with subprocess.Popen(export(folder), stdout=subprocess.DEVNULL) as process:
        while not list(folder.glob(".*.tmp")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.kill()
    assert not (folder / "ckpt.onnx").exists()
    assert run("export", folder / "ckpt.pth")[0] == 0
    assert (folder / "ckpt.onnx").read_bytes() == (proven / "ckpt.onnx").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"ckpt.pth", "ckpt.onnx"}


@pytest.mark.study
def test_killed_at_random_moments_the_command_leaves_no_half_file(folder, proven):
    destination = folder / "ckpt.onnx"
    complete = (proven / "ckpt.onnx").read_bytes()
    chance = random.Random(0)
    for _ in range(4):
        destination.write_bytes(OLD)
        with subprocess.Popen(export(folder), stdout=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(2, 6))
            process.kill()
        assert destination.read_bytes() in (OLD, complete)
    subprocess.run(export(folder), check=True, capture_output=True)
    assert {path.name for path in folder.iterdir()} == {"ckpt.pth", "ckpt.onnx"}


@pytest.mark.slow
def test_a_full_disk_is_exit_5(folder):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    (folder / "ckpt.onnx").write_bytes(OLD)
    done = subprocess.run(
        [*export(folder), "--json", "-"], capture_output=True, text=True, preexec_fn=small_files
    )
    assert done.returncode == 5
    assert "could not be written" in done.stderr
    assert done.stdout == ""
    assert (folder / "ckpt.onnx").read_bytes() == OLD
    assert len(list(folder.iterdir())) == 2
