import os

import pytest

from levit_deploy.errors import OutputError, VerificationError
from levit_deploy.publish import staged


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "ckpt.pth"
    path.write_bytes(b"weights")
    return path


def everything_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_destination_appears_complete_when_the_block_ends(tmp_path, source):
    destination = tmp_path / "out.onnx"
    with staged(destination, source=source, force=False) as temporary:
        temporary.write_bytes(b"artifact")
        assert temporary.parent == destination.parent  # a rename across disks is not atomic
        assert not destination.exists()
    assert destination.read_bytes() == b"artifact"
    assert everything_in(tmp_path) == ["ckpt.pth", "out.onnx"]


def publish(destination, source, data, *, force=False, error=None, meanwhile=None):
    with staged(destination, source=source, force=force) as temporary:
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
        staged(destination, source=source, force=False),
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
            pytest.raises(OutputError, match="checkpoint itself"),
            staged(destination, source=source, force=True),
        ):
            pytest.fail("the work was done in vain")
    assert source.read_bytes() == b"weights"


def test_a_folder_and_a_missing_folder_are_refused(tmp_path, source):
    with (
        pytest.raises(OutputError, match="is a folder"),
        staged(tmp_path, source=source, force=True),
    ):
        pytest.fail("the work was done in vain")
    with (
        pytest.raises(OutputError, match="does not exist"),
        staged(tmp_path / "nowhere" / "out.onnx", source=source, force=False),
    ):
        pytest.fail("the work was done in vain")
