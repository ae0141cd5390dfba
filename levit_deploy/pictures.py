"""Pictures in a folder as a kind of input that an artifact is proven on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from levit_deploy.config import LeViTConfig
from levit_deploy.errors import InputError, LevitDeployError, first_line, is_out_of_memory
from levit_deploy.preprocessing import Preprocessing, UnfitPictureError, prepare
from levit_deploy.runtime.sessions import FloatArray

if TYPE_CHECKING:  # both import torch, for which a look at the paths does not wait
    from levit_deploy.checkpoint import Checkpoint
    from levit_deploy.verification import Case

# No others of Pillow's: it has Ghostscript run what is EPS, whatever the file's name.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MOST = 64  # enough for steady figures, and no longer than seconds for the largest LeViT in float64


def picture_case(checkpoint: Checkpoint, folder: str | Path) -> Case:
    """The pictures below a folder, prepared for a network, to give to ``verify`` as ``extra``.

    Where there are more than MOST, that many are taken, evenly spread over their sorted names.
    Raises InputError where there is none or one cannot be read, UsageError where pictures are
    nothing the network takes.
    """
    from levit_deploy.verification import Case

    found = find_pictures(Path(folder))
    taken = min(len(found), MOST)
    chosen = [found[i * len(found) // taken] for i in range(taken)]
    images = read_pictures(chosen, checkpoint.config, checkpoint.preprocessing)

    def draw(n: int) -> FloatArray:
        # what few pictures leave to chance is settled by the same with less and less contrast
        times = -(-n // taken)
        return np.concatenate([np.float32(1 - i / 256) * images for i in range(times)])[:n]

    return Case("pictures", draw, (taken, *(n for n in (32, 64) if n > taken)))


def find_pictures(folder: Path) -> list[Path]:
    """Every picture below a folder, sorted; hidden files and folders are passed over.

    Raises InputError where there is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Expected one with pictures in it.")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise InputError(
            f"{folder} has no pictures in it or in its folders. Expected files whose names end in "
            f"{', '.join(SUFFIXES)}. Name another folder."
        )
    return found


def is_picture_below(path: Path, folder: Path) -> bool:
    """Whether a file may be one that ``find_pictures`` gives, told without a look at the others."""
    try:
        return (
            path.suffix.lower() in SUFFIXES
            and path.is_file()
            and any(parent.samefile(folder) for parent in path.resolve().parents)
        )
    except OSError:  # a path that cannot be looked at is no picture either
        return False


def read_pictures(
    paths: Sequence[Path], config: LeViTConfig, preprocessing: Preprocessing
) -> FloatArray:
    """Pictures as the network expects them: float32 (n, channels, height, width).

    Raises InputError, naming the picture, where one cannot be read or prepared.
    """
    return np.stack([_read(path, config, preprocessing) for path in paths])


def _read(path: Path, config: LeViTConfig, preprocessing: Preprocessing) -> FloatArray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage that Pillow can read past
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                return prepare(picture, config, preprocessing)
    except UnfitPictureError as error:
        raise _unfit(path, str(error)) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        most = f"{Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        raise _unfit(path, f"it has more than {most}. Expected no more") from error
    except Exception as error:  # Pillow's decoders raise whatever they come upon
        if isinstance(error, LevitDeployError) or is_out_of_memory(error):
            raise
        raise InputError(
            f"{path} cannot be read as a picture: {first_line(error)}. Expected a whole one, as "
            f"{', '.join(FORMATS)}. Repair it, or take it out of the folder."
        ) from error


def _unfit(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be used: {reason}. Convert it, or take it out of the folder.")
