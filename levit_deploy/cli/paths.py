"""The paths that a command reads and writes, checked before torch is imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from levit_deploy.errors import InputError, UsageError


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The paths that a command reads, and so never writes.

    ``images`` is a folder of pictures; ``pictures`` are pictures and such folders.
    """

    checkpoint: Path | None = None
    artifacts: Sequence[Path] = ()
    labels: Path | None = None
    expect: Path | None = None
    images: Path | None = None
    pictures: Sequence[Path] = ()

    def files(self) -> list[Path]:
        """Every path, with the files in a checkpoint's folder; InputError for an unreadable one."""
        files: list[Path] = []
        paths = (self.checkpoint, *self.artifacts, self.labels, self.expect, self.images)
        for path in filter(None, (*paths, *self.pictures)):
            try:
                path.stat()
                files.append(path)
                if path is self.checkpoint and path.is_dir():
                    files += path.iterdir()
            except OSError as error:
                expected = "folder" if path is self.images else "file"
                raise InputError(
                    f"{path} cannot be read: {error.strerror}. Expected an existing {expected}. "
                    "Check the path."
                ) from error
        return files

    def check_kinds(self) -> None:
        """Raise InputError for a folder given as an artifact, or a file given as --images."""
        for artifact in self.artifacts:
            if artifact.is_dir():
                raise InputError(
                    f"{artifact} is a folder. Expected an artifact, a file that was exported "
                    "or fused. Give the file inside the folder."
                )
        if self.images is not None and not self.images.is_dir():
            raise InputError(f"{self.images} is a file. Expected a folder of pictures. Give one.")

    def have_picture(self, path: Path) -> bool:
        """Whether a path is a picture in one of the folders."""
        from levit_deploy.pictures.files import is_picture_below

        folders = (folder for folder in (self.images, *self.pictures) if folder and folder.is_dir())
        return any(is_picture_below(path, folder) for folder in folders)


def check_paths(inputs: Inputs, outputs: Mapping[str, Path | None], *, force: bool) -> None:
    """Refuse inputs that cannot be read, and outputs that must not be written.

    ``outputs`` has the file to write for each option that names one.
    """
    from levit_deploy.publish.file import refuse_bad_destination

    taken = inputs.files()
    inputs.check_kinds()
    for option, path in outputs.items():
        if path is None:
            continue
        if path == Path("-"):
            raise UsageError(
                f"{option} - names no file. Only --json and --csv can go to standard output. Name "
                f"a file with {option}."
            )
        pictures = [path] if inputs.have_picture(path) else []
        refuse_bad_destination(path, [*taken, *pictures], force, option=option)
        taken.append(path)


def file_of(text: str | None) -> Path | None:
    """The file that an option names; None if it is left out, or - for standard output."""
    return None if text is None or text == "-" else Path(text)
