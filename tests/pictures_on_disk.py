"""Pictures to read, and files that look like pictures."""

import errno
import os
from pathlib import Path

import numpy as np
from PIL import Image


def save(path, seed=0, size=(24, 30), **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(path, **options)
    return picture


def truncated(path):
    save(path, size=(100, 100))
    path.write_bytes(path.read_bytes()[:-2000])


def damaged(path):
    save(path, size=(100, 100))
    data = bytearray(path.read_bytes())
    data[40:60] = bytes(20)
    path.write_bytes(data)


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("no picture"),
    "truncated": truncated,
    "damaged": damaged,
    "a program for Ghostscript": lambda path: save(path, format="EPS"),
    "another format": lambda path: save(path, format="PCX"),
}


def unlisted(folder):
    """What lists folders, but not this one: root may list every folder."""
    listed = os.scandir

    def scandir(path):
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    return scandir
