"""What is handed on as a source distribution is the whole of the project."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parent.parent
BUILD = "from setuptools import build_meta; build_meta.build_sdist('dist')"


def test_it_has_every_file_of_the_checkout(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="what builds it is not installed")
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout, or git is not installed")
    git = ["git", "-c", "safe.directory=*"]  # whoever checked it out
    listed = subprocess.run([*git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = {name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()}
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, capture_output=True, check=True)
    with tarfile.open(*(tmp_path / "dist").iterdir()) as archive:
        packed = {str(PurePath(*PurePath(name).parts[1:])) for name in archive.getnames()}
    assert files - packed == set()
