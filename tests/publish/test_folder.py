"""A folder appears complete or not at all, and replaces only one of our own."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from levit_deploy.errors import OutputError, VerificationError
from levit_deploy.publish import folder as publish_folder
from levit_deploy.publish.file import lock_or_fail
from levit_deploy.publish.folder import staged_folder

OLD, NEW = {"a": "old", "b": "old"}, {"a": "new", "c": "new"}


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def destination(tmp_path):
    fill(tmp_path / "out", OLD)
    return tmp_path / "out"


def fill(folder, files):
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)


def publish(destination, *, force=True, ours=True, error=None):
    with staged_folder(destination, is_ours=lambda _: ours, force=force) as temporary:
        assert temporary.parent == destination.parent  # a rename across disks is not atomic
        for name, text in NEW.items():
            (temporary / name).write_text(text)
        if error is not None:
            raise error


def test_everything_in_it_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    steps, rename = [], Path.rename

    def renamed(path, target):
        steps.append(("rename", path.stat().st_ino))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda file: steps.append(("sync", os.fstat(file).st_ino)))
    monkeypatch.setattr(Path, "rename", renamed)
    publish(tmp_path / "new")
    inside = {("sync", path.stat().st_ino) for path in (tmp_path / "new").iterdir()}
    folder, parent = (tmp_path / "new").stat().st_ino, tmp_path.stat().st_ino
    assert set(steps[:-3]) == inside
    assert steps[-3:] == [("sync", folder), ("rename", folder), ("sync", parent)]


@pytest.mark.parametrize("before", ["absent", "empty", "full"])
def test_the_folder_appears_complete_when_the_block_ends(tmp_path, before):
    destination = tmp_path / "out"
    if before != "absent":
        fill(destination, OLD if before == "full" else {})
    publish(destination, force=before == "full")
    assert contents(destination) == NEW
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (VerificationError("no"), VerificationError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), OutputError),
    ],
)
def test_a_failure_leaves_the_old_folder(destination, error, raised):
    with pytest.raises(raised):
        publish(destination, error=error)
    assert contents(destination) == OLD
    assert names_in(destination.parent) == ["out"]


def test_only_a_folder_of_ours_is_replaced_and_only_with_force(destination):
    with pytest.raises(OutputError, match="--force"):
        publish(destination, force=False)
    with pytest.raises(OutputError, match="did not write"):
        publish(destination, ours=False)
    assert contents(destination) == OLD


def test_what_is_no_folder_is_refused(destination, tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(destination)
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="not a folder"):
            publish(tmp_path / name)
    with pytest.raises(OutputError, match="does not exist"):
        publish(tmp_path / "nowhere" / "out")
    assert (tmp_path / "file").read_text() == "kept"
    assert contents(destination) == OLD


def test_where_names_cannot_be_swapped_two_renames_do(destination, monkeypatch):
    monkeypatch.setattr(publish_folder, "_exchange", lambda _one, _other: False)
    publish(destination)
    assert contents(destination) == NEW
    assert names_in(destination.parent) == ["out"]


def test_where_the_second_rename_fails_the_old_folder_gets_its_name_back(destination, monkeypatch):
    original = Path.rename

    def rename(path, target):
        if path.name.endswith(".levit-deploy.tmp"):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        return original(path, target)

    monkeypatch.setattr(publish_folder, "_exchange", lambda _one, _other: False)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputError, match="could not be written"):
        publish(destination)
    assert contents(destination) == OLD
    assert names_in(destination.parent) == ["out"]


def test_names_can_be_swapped_here(destination, tmp_path):
    if sys.platform != "linux":
        pytest.skip("renameat2 is of Linux")
    fill(tmp_path / "other", NEW)
    assert publish_folder._exchange(tmp_path / "other", destination)
    assert (contents(destination), contents(tmp_path / "other")) == (NEW, OLD)
    with pytest.raises(FileNotFoundError):
        publish_folder._exchange(tmp_path / "nowhere", destination)


# Publishes NEW, and is hit at the k-th step that touches the disk: killed, or given an error.
PROGRAM = """
import os, signal, sys
from pathlib import Path
destination, step, error = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
count = 0

def around(function):
    def hit():
        global count
        count += 1
        if count == step:
            if error:
                raise OSError(error, os.strerror(error))
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(*args, **kwargs):
        hit()
        result = function(*args, **kwargs)
        hit()
        return result
    return wrapped

from levit_deploy.publish import folder as publish_folder
from levit_deploy.errors import OutputError
for owner, names in (
    (os, ("fsync", "open", "mkdir", "rmdir", "unlink")),
    (Path, ("rename", "write_text")),
    (publish_folder, ("_exchange",)),
):
    for name in names:
        setattr(owner, name, around(getattr(owner, name)))
try:
    with publish_folder.staged_folder(destination, is_ours=lambda _: True, force=True) as temporary:
        (temporary / "a").write_text("new")
        (temporary / "c").write_text("new")
except OutputError:
    print(count)
    sys.exit(5)
print(count)
"""


def program(destination, step=0, error=0):
    command = [sys.executable, "-c", PROGRAM, str(destination), str(step), str(error)]
    return subprocess.run(command, capture_output=True, text=True)


def steps(destination):
    done = program(destination)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_killed_at_every_step_the_folder_is_whole(destination):
    n, outcomes = steps(destination), []
    assert n > 25
    for step in range(1, n + 1):
        fill(destination, OLD)
        assert program(destination, step).returncode == -signal.SIGKILL
        outcomes.append(contents(destination))
        assert outcomes[-1] in (OLD, NEW)
        left = [name for name in names_in(destination.parent) if name != "out"]
        assert len(left) <= 1
        assert all(name.endswith(".levit-deploy.tmp") for name in left)
    assert OLD in outcomes
    assert NEW in outcomes
    assert program(destination).returncode == 0  # which also clears up
    assert names_in(destination.parent) == ["out"]


@pytest.mark.slow
def test_an_error_at_any_step_is_exit_5_and_leaves_the_folder_whole(destination):
    for step in range(1, steps(destination) + 1):
        fill(destination, OLD)
        done = program(destination, step, errno.ENOSPC)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 5)
        assert contents(destination) in (OLD, NEW)
        assert done.returncode == 5 or contents(destination) == NEW


def test_folders_of_others_and_of_those_at_work_are_left_alone(destination, tmp_path):
    for name in (".out.12.levit-deploy.tmp.bak", ".other.12.levit-deploy.tmp"):
        fill(tmp_path / name, OLD)
    (tmp_path / ".out.99.levit-deploy.tmp").symlink_to(destination)
    fill(tmp_path / ".out.98.levit-deploy.tmp", OLD)
    fill(tmp_path / ".out.97.levit-deploy.tmp", OLD)
    at_work = os.open(tmp_path / ".out.98.levit-deploy.tmp", os.O_RDONLY)
    lock_or_fail(at_work)
    publish(destination)
    os.close(at_work)
    assert names_in(tmp_path) == [
        ".other.12.levit-deploy.tmp",
        ".out.12.levit-deploy.tmp.bak",
        ".out.98.levit-deploy.tmp",
        ".out.99.levit-deploy.tmp",
        "out",
    ]
