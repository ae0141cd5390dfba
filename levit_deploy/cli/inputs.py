"""What commands do with their arguments before they work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.cli.status import status
from levit_deploy.errors import InputError, UsageError

if TYPE_CHECKING:
    from levit_deploy.checkpoint import Checkpoint
    from levit_deploy.runtime.artifact import Artifact


def read(
    path: Path,
    activation: str | None,
    image_size: str | None,
    weights: str | None,
    preprocessing: str | None = None,
    labels: Path | None = None,
    *,
    quiet: bool,
) -> Checkpoint:
    """Load a checkpoint as the options say."""
    with status(f"reading {path}", quiet=quiet):  # and loading torch
        from levit_deploy.checkpoint import read_checkpoint

        return read_checkpoint(
            path,
            weights=weights,
            activation=activation,
            image_size=parsed_image_size(image_size),
            preprocessing=preprocessing,
            labels=labels,
        )


@contextmanager
def open_artifact(path: Path, threads: int | None, quiet: bool) -> Iterator[Artifact]:
    """An artifact in a process of its own, which takes a second to start."""
    with ExitStack() as stack:
        with status(f"opening {path}", quiet=quiet):
            from levit_deploy.runtime.isolated import open_isolated

            artifact = stack.enter_context(open_isolated(path, threads))
        yield artifact


def parsed_image_size(text: str | None) -> tuple[int, int] | None:
    """Height and width; UsageError where --image-size is neither N nor HxW."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(map(_is_count, sides)):
        raise UsageError(
            f"--image-size {text} is no size. Expected a number of pixels, as in 224, or height "
            "and width, as in 192x256."
        )
    return int(sides[0]), int(sides[-1])


def parsed_batch_size(text: str) -> int | None:
    """A batch size, None for a dynamic one; UsageError where --batch-size is neither."""
    if text == "dynamic":
        return None
    if not _is_count(text):
        raise UsageError(
            f"--batch-size {text} is no size. Expected a positive number of images, or dynamic."
        )
    return int(text)


def _is_count(text: str) -> bool:
    """Whether a text is a positive number of pixels or images, and a sensible one."""
    return text.isascii() and text.isdecimal() and len(text) < 7 and int(text) > 0


def beside(checkpoint: Path, suffix: str) -> Path:
    """The checkpoint's path with another suffix, for a folder with one more."""
    if checkpoint.is_dir():
        named = checkpoint if checkpoint.name not in ("", "..") else checkpoint.resolve()
        return named.parent / (named.name + suffix)
    return checkpoint.parent / (checkpoint.stem + suffix)


def json_path(json_file: str | None) -> Path | None:
    """The file that --json names; none where it is left out, or names standard output."""
    return None if json_file in (None, "-") else Path(str(json_file))


def check_paths(
    checkpoint: Path | None = None,
    *artifacts: Path,
    labels: Path | None = None,
    images: Path | None = None,
    pictures: Sequence[Path] = (),
    output: Path | None = None,
    output_option: str = "-o",
    json_file: str | None = None,
    json_option: str = "--json",
    force: bool,
) -> None:
    """Refuse what cannot be read or must not be written, before torch is imported."""
    from levit_deploy.publish.file import refuse_bad_destination

    inputs = [path for path in (checkpoint, *artifacts, labels) if path is not None]
    for path in filter(None, (checkpoint, *artifacts, labels, images, *pictures)):
        try:
            path.stat()
            if path is checkpoint and path.is_dir():  # its files are not to be overwritten
                inputs += path.iterdir()
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror}. Expected an existing "
                f"{'folder' if path is images else 'file'}. Check the path."
            ) from error
    for artifact in artifacts:
        if artifact.is_dir():
            raise InputError(
                f"{artifact} is a folder. Expected an artifact: an ONNX, TorchScript or fused "
                "file. Give the file inside the folder."
            )
    if images is not None and not images.is_dir():
        raise InputError(f"{images} is a file. Expected a folder with pictures in it. Name that.")
    report = json_path(json_file)
    folders = [path for path in (images, *pictures) if path is not None and path.is_dir()]
    inputs += [path for path in pictures if not path.is_dir()]
    if folders and (output is not None or report is not None):
        from levit_deploy.pictures.files import is_picture_below

        inputs += [
            path
            for path in (output, report)
            if path and any(is_picture_below(path, folder) for folder in folders)
        ]
    if output == Path("-"):
        raise UsageError(
            f"{output_option} - names no file. Only --json can go to standard output. Name a file "
            f"with {output_option}."
        )
    if output is not None:
        refuse_bad_destination(output, inputs, force, option=output_option)
    if report is not None:
        taken = [*inputs, output] if output is not None else inputs
        refuse_bad_destination(report, taken, force, option=json_option)
