"""Pictures in files and folders, found and read."""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from levit_deploy.arrays import Images
from levit_deploy.choices import Input
from levit_deploy.errors import InputError, LevitDeployError, first_line, is_out_of_memory
from levit_deploy.pictures.transform import Transform, UnfitPictureError
from levit_deploy.regular_files import open_regular

READERS = 4  # threads, as Pillow decodes and resizes without the lock of the interpreter

# None of Pillow's others: it runs Ghostscript on an EPS file, whatever the file's name.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)


def find_pictures(folder: Path) -> list[Path]:
    """The pictures of ``walk_pictures``, all at once.

    Raises InputError if there is none, or a folder that cannot be listed.
    """
    paths = list(walk_pictures(folder))
    if not paths:
        raise no_pictures(folder)
    for path in paths:
        if is_unlisted(path):
            raise _unlisted(path, "it cannot be listed")
    return paths


def no_pictures(folder: Path) -> InputError:
    """The error for a folder without pictures."""
    return InputError(
        f"{folder} has no pictures in it or in its folders. Expected files whose names end in "
        f"{', '.join(SUFFIXES)}. Name another folder."
    )


def walk_pictures(folder: Path) -> Iterator[Path]:
    """Every picture below a folder, in the order of their paths, one folder's names at a time.

    A picture is anything with a picture's suffix that is not a folder, even a broken link: the
    error comes when it is read. A folder below that cannot be listed is given as well. Links to
    folders are followed, unless they are in that folder. Hidden files and folders are passed over.
    Raises InputError if ``folder`` itself cannot be listed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Expected one with pictures in it.")
    try:
        yield from _below(folder, ())
    except OSError as error:
        raise _unlisted(folder, str(error.strerror)) from error


def _below(folder: Path, above: tuple[os.stat_result, ...]) -> Iterator[Path]:
    """The pictures below a folder that is in those ``above``; OSError if it cannot be listed."""
    this = folder.stat()
    if any(os.path.samestat(this, other) for other in above):
        return  # a link back to a folder that is being listed
    with os.scandir(folder) as listed:
        entries = sorted(listed, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself: its name decides
            is_folder = False
        if is_folder:
            try:
                yield from _below(path, (*above, this))
            except OSError:
                yield path
        elif path.suffix.lower() in SUFFIXES:
            yield path


def is_unlisted(path: Path) -> bool:
    """Whether a path of ``walk_pictures`` is a folder, so one that it could not list."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _unlisted(folder: Path, reason: str) -> InputError:
    return InputError(
        f"The folder {folder} cannot be read: {reason}. Make it readable, or name another."
    )


def is_picture_below(path: Path, folder: Path) -> bool:
    """Whether ``find_pictures`` may give a file, told without a look at the others."""
    try:
        return (
            path.suffix.lower() in SUFFIXES
            and path.is_file()
            and any(
                parent.samefile(folder)
                for whole in (path.absolute(), path.resolve())
                for parent in whole.parents
            )
        )
    except OSError:  # a path that cannot be looked at is not a picture
        return False


def read_pictures(paths: Sequence[Path], transform: Transform, input: Input = "float32") -> Images:
    """Pictures as the network expects them: float32 (n, channels, height, width).

    For ``input`` 'uint8' they are not normalised: uint8 (n, height, width, channels). Raises
    InputError, naming the picture, if one cannot be read or prepared.
    """
    transform.require_pictures()
    with damage_passed_over(), ThreadPoolExecutor(READERS) as readers:
        pixels = np.stack(list(readers.map(lambda path: read_picture(path, transform.fit), paths)))
    return pixels if input == "uint8" else transform.normalise(pixels)


@contextmanager
def damage_passed_over() -> Iterator[None]:
    """Silence Pillow's warnings of damage that it can read past.

    The whole process is silent: one thread enters this, around all that read.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def read_picture(path: Path, make: Callable[[Image.Image], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Open the picture in a file and return ``make`` of it; several threads may read at once.

    Raises InputError, naming the picture, if it cannot be read or used.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError  # Pillow itself only warns, up to twice that
            return make(picture)
    except UnfitPictureError as error:
        raise _unfit(path, str(error)) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        most = f"{Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        raise _unfit(path, f"it has more than {most}. Expected fewer") from error
    except Exception as error:  # Pillow's decoders raise errors of all kinds
        if isinstance(error, LevitDeployError) or is_out_of_memory(error):
            raise
        raise InputError(
            f"{path} cannot be read as a picture: {_reason(error)}. Expected a whole one, as "
            f"{', '.join(FORMATS)}. Repair it, or take it out of the folder."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its format is not known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


def _unfit(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be used: {reason}. Convert it, or take it out of the folder.")
