import errno
import os
import shutil

import numpy as np
import pytest
from networks import GOLDENS
from PIL import Image

from levit_deploy import report


@pytest.fixture
def hub(tmp_path):
    """A folder as transformers saves it, in a folder of its own."""
    folder = tmp_path / "levit.v1"
    shutil.copytree(GOLDENS / "transformers", folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "holiday"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (70, 90)), ("b.png", (200, 101)), ("c.webp", (64, 64))):
        colours = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        colours.resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder.parent


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that is full once there is a report to write."""

    def write(_data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(report, "to_json", write)
