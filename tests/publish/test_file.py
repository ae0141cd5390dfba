import os
from pathlib import Path

import pytest

from levit_deploy.errors import OutputError, VerificationError
from levit_deploy.publish.file import reserved, staged


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "ckpt.pth"
    path.write_bytes(b"weights")
    return path


def everything_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_destination_appears_complete_when_the_block_ends(tmp_path, source):
    destination = tmp_path / "out.onnx"
    with staged(destination, sources=(source,), force=False) as temporary:
        temporary.write_bytes(b"artifact")
        assert temporary.parent == destination.parent  # a rename across disks is not atomic
        assert not destination.exists()
    assert destination.read_bytes() == b"artifact"
    assert everything_in(tmp_path) == ["ckpt.pth", "out.onnx"]


def test_it_is_on_the_disk_before_it_gets_its_name(tmp_path, source, monkeypatch):
    steps, replace = [], Path.replace

    def renamed(path, target):
        steps.append(("rename", path.stat().st_ino))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda file: steps.append(("sync", os.fstat(file).st_ino)))
    monkeypatch.setattr(Path, "replace", renamed)
    with staged(tmp_path / "out.onnx", sources=(source,), force=False) as temporary:
        temporary.write_bytes(b"artifact")
    file, folder = (tmp_path / "out.onnx").stat().st_ino, tmp_path.stat().st_ino
    assert steps == [("sync", file), ("rename", file), ("sync", folder)]


def publish(destination, source, data, *, force=False, error=None, meanwhile=None):
    with staged(destination, sources=(source,), force=force) as temporary:
        temporary.write_bytes(data)
        if meanwhile is not None:
            destination.write_bytes(meanwhile)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (VerificationError("no"), VerificationError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), OutputError),
    ],
)
def test_nothing_is_left_when_the_block_fails(tmp_path, source, error, raised):
    with pytest.raises(raised):
        publish(tmp_path / "out.onnx", source, b"half", error=error)
    assert everything_in(tmp_path) == ["ckpt.pth"]


def test_a_failure_leaves_the_old_bytes(tmp_path, source):
    destination = tmp_path / "out.onnx"
    destination.write_bytes(b"old")
    with pytest.raises(VerificationError):
        publish(destination, source, b"new", force=True, error=VerificationError("no"))
    assert destination.read_bytes() == b"old"
    assert everything_in(tmp_path) == ["ckpt.pth", "out.onnx"]


def test_an_existing_file_needs_force(tmp_path, source):
    destination = tmp_path / "out.onnx"
    destination.write_bytes(b"old")
    with (
        pytest.raises(OutputError, match="--force"),
        staged(destination, sources=(source,), force=False),
    ):
        pytest.fail("the work was done in vain")
    publish(destination, source, b"new", force=True)
    assert destination.read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path, source):
    destination = tmp_path / "out.onnx"
    with pytest.raises(OutputError, match="exists"):
        publish(destination, source, b"ours", meanwhile=b"theirs")
    assert destination.read_bytes() == b"theirs"


def test_the_checkpoint_is_never_overwritten(tmp_path, source):
    link = tmp_path / "link.onnx"
    os.link(source, link)
    for destination in (source, link):
        with (
            pytest.raises(OutputError, match="own files"),
            staged(destination, sources=(source,), force=True),
        ):
            pytest.fail("the work was done in vain")
    assert source.read_bytes() == b"weights"


def test_a_folder_and_a_missing_folder_are_refused(tmp_path, source):
    with (
        pytest.raises(OutputError, match="is a folder"),
        staged(tmp_path, sources=(source,), force=True),
    ):
        pytest.fail("the work was done in vain")
    with (
        pytest.raises(OutputError, match="does not exist"),
        staged(tmp_path / "nowhere" / "out.onnx", sources=(source,), force=False),
    ):
        pytest.fail("the work was done in vain")


def test_links_and_devices_are_never_replaced(tmp_path, source):
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    before = everything_in(tmp_path)
    for name in ("link", "dangling", "fifo"):
        with pytest.raises(OutputError, match="link or a device"):
            publish(tmp_path / name, source, b"new", force=True)
    assert (tmp_path / "target").read_bytes() == b"kept"
    assert everything_in(tmp_path) == before


def test_a_planted_link_under_the_temporary_name_is_not_followed(tmp_path, source):
    (tmp_path / "victim").write_bytes(b"kept")
    (tmp_path / f".out.onnx.{os.getpid()}.levit-deploy.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match="could not be written"):
        publish(tmp_path / "out.onnx", source, b"new")
    assert (tmp_path / "victim").read_bytes() == b"kept"


def test_a_name_too_long_for_the_disk_is_refused(tmp_path, source):
    with pytest.raises(OutputError, match="could not be written"):
        publish(tmp_path / ("x" * 300), source, b"new")


@pytest.mark.parametrize(("folder", "creates"), [(False, "touch"), (True, "mkdir")])
def test_an_interrupt_as_soon_as_the_temporary_file_is_there_leaves_none(
    tmp_path, monkeypatch, folder, creates
):
    create = getattr(Path, creates)

    def interrupted(self, **options):
        create(self, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, creates, interrupted)
    with pytest.raises(KeyboardInterrupt), reserved(tmp_path / "out", folder=folder):
        pass
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_link_of_others_in_the_temporary_files_place_is_kept(tmp_path, folder):
    link = tmp_path / f".out.{os.getpid()}.levit-deploy.tmp"
    link.symlink_to("nowhere")
    with pytest.raises(FileExistsError), reserved(tmp_path / "out", folder=folder):
        pass
    assert link.is_symlink()
