"""The pictures of a folder, split: some to calibrate on, the rest to judge by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from levit_deploy.arrays import BATCH_SIZE, FloatArray, Images
from levit_deploy.choices import Input
from levit_deploy.errors import InputError
from levit_deploy.pictures.class_folders import class_indices
from levit_deploy.pictures.files import find_pictures, read_pictures
from levit_deploy.pictures.transform import Transform
from levit_deploy.text import counted

FEWEST = 40  # one in four to calibrate on leaves thirty to judge by
MOST_CALIBRATING, MOST_JUDGING = 64, 1000
MOST_KEPT = 2**27  # bytes of pictures: nearly all of MOST_JUDGING at 224
SHOWN_FOLDERS = 10  # as many as tell an order


@dataclass(frozen=True, kw_only=True)
class Judging:
    """The pictures to judge by, read a few at a time.

    The first MOST_KEPT bytes of them are kept, and the others are read each time. ``labels`` are
    class indices, one a picture, and ``classes`` the index of each folder. Both are None if the
    folders are not those of the classes. ``answers`` remembers those of files (``top1``).
    """

    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64] | None
    transform: Transform
    input: Input = "float32"
    classes: dict[str, int] | None = None
    answers: dict[str, FloatArray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _kept: dict[int, Images] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def understood(self) -> str:
        """How the pictures were prepared, and their folders taken for classes, in words."""
        prepared = f'prepared as "{self.transform.preprocessing}"'
        if self.classes is None:
            return prepared
        numbered = [
            f"{i} {folder}" for folder, i in sorted(self.classes.items(), key=lambda x: x[1])
        ]
        more = ["..."] if len(numbered) > SHOWN_FOLDERS else []
        shown = ", ".join([*numbered[:SHOWN_FOLDERS], *more])
        return f"{prepared}, the folders taken for the classes {shown}"

    def batches(self) -> Iterator[Images]:
        """All pictures in order, up to BATCH_SIZE at once, as ``read_pictures`` gives them."""
        for start in range(0, len(self.paths), BATCH_SIZE):
            pixels = self._kept.get(start)
            if pixels is None:
                paths = self.paths[start : start + BATCH_SIZE]
                pixels = read_pictures(paths, self.transform, "uint8")
                if sum(kept.nbytes for kept in self._kept.values()) + pixels.nbytes <= MOST_KEPT:
                    self._kept[start] = pixels
            yield pixels if self.input == "uint8" else self.transform.normalise(pixels)


def judging_pictures(
    folder: Path,
    transform: Transform,
    num_classes: int,
    input: Input = "float32",
    class_names: Sequence[str] = (),
    *,
    every: bool = False,
) -> Judging:
    """The pictures below a folder, MOST_JUDGING of them, evenly spread, or ``every`` one.

    Folders named after ``class_names``, the checkpoint's labels if it has any, are those classes.
    """
    paths = find_pictures(folder)
    classes = _classes(paths, folder, num_classes, class_names)
    return _judging(paths, folder, classes, transform, input, every)


def split_pictures(
    folder: Path,
    transform: Transform,
    num_classes: int,
    input: Input = "float32",
    class_names: Sequence[str] = (),
    *,
    every: bool = False,
) -> tuple[Images, Judging]:
    """A quarter of the pictures to calibrate on, at most MOST_CALIBRATING, and the others.

    ``class_names`` and ``every`` are as for ``judging_pictures``. Raises InputError for fewer than
    FEWEST.
    """
    paths = find_pictures(folder)
    if len(paths) < FEWEST:
        raise InputError(
            f"{folder} has {counted(len(paths), 'picture')}. Expected {FEWEST} or more: a "
            "quarter of them to calibrate on, the others to judge by. Add pictures such as the "
            "network will meet."
        )
    calibrating = _spread(paths, min(len(paths) // 4, MOST_CALIBRATING))
    classes = _classes(paths, folder, num_classes, class_names)
    rest = sorted(set(paths) - set(calibrating))
    return (
        read_pictures(calibrating, transform, input),
        _judging(rest, folder, classes, transform, input, every),
    )


def _judging(
    paths: list[Path],
    folder: Path,
    classes: dict[str, int] | None,
    transform: Transform,
    input: Input,
    every: bool,
) -> Judging:
    chosen = paths if every else _spread(paths, MOST_JUDGING)
    labels = None
    if classes is not None:
        labels = np.array([classes[path.relative_to(folder).parts[0]] for path in chosen])
    return Judging(
        paths=tuple(chosen), labels=labels, transform=transform, input=input, classes=classes
    )


def _spread(paths: list[Path], most: int) -> list[Path]:
    n = min(len(paths), most)
    return [paths[i * len(paths) // n] for i in range(n)]


def _classes(
    paths: list[Path], folder: Path, num_classes: int, class_names: Sequence[str]
) -> dict[str, int] | None:
    """Class indices by folder; None if a class has no folder, or a picture is in none."""
    inside = [path.relative_to(folder).parts for path in paths]
    if any(len(parts) < 2 for parts in inside):
        return None
    return class_indices({parts[0] for parts in inside}, num_classes, class_names)
