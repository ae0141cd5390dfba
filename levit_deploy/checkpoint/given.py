"""Facts about a network that you give beyond its file."""

import re
from dataclasses import dataclass

from levit_deploy.choices import ACTIVATIONS, Activation, require_one_of
from levit_deploy.config import Grid
from levit_deploy.errors import UsageError

# a pre-release counts as its release, and a local build as what it was built from
_RELEASE = re.compile(r"([A-Za-z0-9_.-]+)==([0-9]+(?:\.[0-9]+)*)(?:\.?[a-z][a-z0-9.]*)?(?:\+.+)?")
# the names of a library in its repositories, by the family of its checkpoints
_LIBRARIES = {
    "vit_pytorch": "vit-pytorch",
    "pytorch-image-models": "timm",
    "mmcls": "mmpretrain",
}


@dataclass(frozen=True)
class Release:
    """A release of a library, such as vit-pytorch 0.17.0. Its version compares as a tuple."""

    library: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.library} {'.'.join(map(str, self.version))}"


@dataclass(frozen=True, kw_only=True)
class Given:
    """The facts, each None if it is not given.

    Attributes:
        activation: That of the MLPs, and of the parts without one of their own.
        trained_with: The library that computed the network in training.
        image_size: The (height, width) that the network is to take.
        trained_size: The (height, width) that it was trained at.
        eps: That of BatchNorm and LayerNorm.
    """

    activation: Activation | None = None
    trained_with: Release | None = None
    image_size: Grid | None = None
    trained_size: Grid | None = None
    eps: float | None = None

    def __post_init__(self) -> None:
        if self.activation is not None:
            require_one_of("--activation", self.activation, ACTIVATIONS)
        _require_size("--image-size", self.image_size)
        _require_size("--trained-size", self.trained_size)
        if self.eps is not None and not (
            isinstance(self.eps, float | int) and 0 < self.eps < 1 and self.eps is not True
        ):
            raise UsageError(f"--eps {self.eps!r} is not a number between 0 and 1.")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The tensors of a file that make the network, if the file leaves a choice.

    Attributes:
        weights: The set of weights: 'model', 'ema', or the name of their place in the file.
        ignore: Patterns for the names of tensors to leave out.
        head_name: The module that is the head.
    """

    weights: str | None = None
    ignore: tuple[str, ...] = ()
    head_name: str | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Those that are given, as on the command line."""
        options = [("--weights", self.weights), ("--head-name", self.head_name)]
        options += [("--ignore", pattern) for pattern in self.ignore]
        return tuple(f"{option} {value}" for option, value in options if value is not None)


def release(text: str | None) -> Release | None:
    """Read 'vit-pytorch==0.17.0'. Raises UsageError for anything else."""
    if text is None:
        return None
    match = _RELEASE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise UsageError(
            f"--trained-with {text!r} is not a release. Expected a library and its version, such "
            "as vit-pytorch==0.17.0. pip freeze prints it so."
        )
    library = _LIBRARIES.get(match[1].lower(), match[1].lower())
    return Release(library, tuple(map(int, match[2].split("."))))


def _require_size(option: str, size: object) -> None:
    if size is not None and not (
        isinstance(size, tuple)
        and len(size) == 2
        and all(type(side) is int and side > 0 for side in size)
    ):
        raise UsageError(f"{option} {size!r} is not a size. Expected (height, width) in pixels.")


NOTHING_GIVEN = Given()
