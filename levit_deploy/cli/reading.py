"""Open the files of a command, which loads torch and takes a second or two."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from levit_deploy.choices import Activation
from levit_deploy.cli.sizes import parsed_image_size
from levit_deploy.cli.status import status
from levit_deploy.errors import UsageError
from levit_deploy.memory import keep_imported

if TYPE_CHECKING:
    from levit_deploy.checkpoint import Checkpoint
    from levit_deploy.runtime.artifact import Artifact


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How to read a checkpoint: your knowledge beyond its file."""

    activation: Annotated[
        Activation | None, typer.Option(help="The activation, if the file does not name it.")
    ] = None
    trained_with: Annotated[
        str | None,
        typer.Option(
            metavar="LIBRARY==VERSION",
            help="The release that trained it, if an old one computes another function, as "
            "vit-pytorch==0.17.0 does.",
        ),
    ] = None
    eps: Annotated[
        float | None, typer.Option(help="The eps of BatchNorm and LayerNorm, if it is not 1e-5.")
    ] = None
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="The image size, if the file does not give it. A size that does not fit the "
            "attention biases interpolates them.",
        ),
    ] = None
    trained_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="The image size trained at, if --image-size is another that fits the attention "
            "biases, too.",
        ),
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which set of weights to load, if the file has several: model or ema, or the name "
            "of its place, such as student.",
        ),
    ] = None
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Names of tensors to leave out, such as 'aux.*', because the network does not "
            "compute with them. Repeat it for more.",
        ),
    ] = None
    head_name: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE", help="The module that is the head, such as fc, beside the trunk."
        ),
    ] = None
    expect: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="The author's logits of some images. The network must compute them: input, "
            "float32 (n, channels, height, width), and logits, (n, classes).",
        ),
    ] = None
    preprocessing: str | None = None
    labels: Path | None = None

    def read(self, path: Path, *, quiet: bool) -> Checkpoint:
        """Load a checkpoint."""
        with status(f"reading {path}", quiet=quiet):  # and loading torch
            from levit_deploy.checkpoint import read_checkpoint

            keep_imported()
            return read_checkpoint(
                path,
                weights=self.weights,
                ignore=self.ignore or (),
                head_name=self.head_name,
                activation=self.activation,
                trained_with=self.trained_with,
                image_size=parsed_image_size("--image-size", self.image_size),
                trained_size=parsed_image_size("--trained-size", self.trained_size),
                eps=self.eps,
                expect=self.expect,
                preprocessing=self.preprocessing,
                labels=self.labels,
            )

    def words(self) -> list[str]:
        """The options that were given, as on the command line."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            for each in value if isinstance(value, list) else [value]:
                if each is not None:
                    words += [f"--{field.name.replace('_', '-')}", str(each)]
        return words

    def refuse_without_checkpoint(self, remedy: str) -> None:
        """Raise UsageError if an option was given, since there is no checkpoint to read."""
        given = [
            f"--{each.name.replace('_', '-')}"
            for each in fields(self)
            if getattr(self, each.name) is not None
        ]
        if given:
            raise UsageError(
                f"Options such as {given[0]} are for checkpoints, and none was given. Leave "
                f"{' and '.join(given)} out, or give {remedy}."
            )


@dataclass(frozen=True, kw_only=True)
class ReadingWithUse(Reading):
    """The same, with options for the use of the network: its pictures and classes."""

    preprocessing: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Preprocessing, if no config has it or the config is wrong. Give any parts of the "
            "line that inspect prints, as in "
            '"crop 0.875, bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5". stretch stands for the crop '
            "if pictures are resized to the image size whatever their proportions.",
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names for the artifact: one a line, or JSON. The default is the config's.",
        ),
    ] = None


@contextmanager
def open_artifact(path: Path, threads: int | None, *, quiet: bool) -> Iterator[Artifact]:
    """An artifact in a process of its own."""
    with ExitStack() as stack:
        with status(f"opening {path}", quiet=quiet):
            from levit_deploy.targets.load import open_isolated

            artifact = stack.enter_context(open_isolated(path, threads))
        log.info("opened %s: %s", path, artifact.format)
        yield artifact
