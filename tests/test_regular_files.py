import os
from pathlib import Path

import pytest

from levit_deploy.regular_files import open_regular, read_regular


def test_a_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in ("a", "link"):
        assert read_regular(tmp_path / name) == b"data"
        assert read_regular(tmp_path / name, limit=4) == b"data"
        with open_regular(tmp_path / name) as file:
            assert file.read(2) == b"da"


def test_a_file_over_the_limit_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_regular(tmp_path / "a", limit=3)


def test_what_is_no_regular_file_is_neither_waited_for_nor_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(path, limit=3)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_what_is_refused_does_not_stay_open():
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(Path("/dev/zero"))
    assert len([*Path("/proc/self/fd").iterdir()]) == before
