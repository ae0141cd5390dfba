"""A target: everything there is to say of one format."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.choices import (
    INPUTS,
    LAYOUTS,
    OUTPUTS,
    BatchSize,
    Input,
    Layout,
    Output,
    Precision,
    require_one_of,
)
from levit_deploy.interface import Interface

if TYPE_CHECKING:  # these import torch or numpy, and ``--help`` reads the targets
    from levit_deploy.arrays import Images, Run
    from levit_deploy.model import LeViT
    from levit_deploy.provenance import Provenance
    from levit_deploy.runtime.artifact import Loader


START = 512  # bytes that tell the format of a file: they have the name of an archive's first member


@dataclass(frozen=True)
class ExportOptions:
    """Your choices for one artifact; None leaves one to the target.

    ``input`` 'uint8' builds the normalisation in, ``output`` 'probabilities' the softmax.
    ``output`` 'features' gives the pooled vector, 'feature-maps' a map for each stage.
    The names are those of the ends of an ONNX graph. ``compile`` makes native code of a PT2 file.
    """

    opset: int | None = None
    batch_size: BatchSize | None = None
    input: Input = "float32"
    output: Output = "logits"
    input_name: str | None = None
    output_name: str | None = None
    compile: bool = False

    @property
    def fixed_batch(self) -> int | None:
        """The batch of every run, or None if any will do."""
        return self.batch_size if isinstance(self.batch_size, int) else None

    @property
    def names(self) -> tuple[str | None, str | None]:
        """Those of the input and the output, as far as you chose them."""
        return self.input_name, self.output_name

    def interface(self) -> Interface:
        """Return the artifact's input and output; raise UsageError if there is no such one."""
        return Interface(
            require_one_of("input", self.input, INPUTS),
            require_one_of("output", self.output, OUTPUTS),
        )


@dataclass(frozen=True)
class TritonBackend:
    """A backend of Triton's: its ``platform``, and the ``file`` name that it looks for.

    Some backends go ``by_place``, and not by the names of inputs and outputs.
    """

    platform: str
    file: str
    by_place: bool = False


@dataclass(frozen=True)
class Form:
    """One way to write the network: ``bench`` times every form of every target."""

    name: str
    layout: Layout
    precision: Precision = "fp32"
    options: ExportOptions = ExportOptions()


@dataclass(frozen=True, kw_only=True)
class Int8Standard:
    """What a rounded file is held to, made again from the checkpoint.

    ``unrounded`` is the float32 file of the same form. ``literal`` computes the rounded network in
    floats, number by number. None stands for the file itself, opened as ``literal``.
    """

    unrounded: bytes
    literal: Run | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format, from the plain network to a running file.

    Its functions import heavy packages when they are called.
    """

    name: str
    suffix: str
    runtime: str  # that it is for, and that proves it
    precisions: tuple[Precision, ...]
    forms: tuple[Form, ...]  # that differ in speed

    auto_layout: Callable[[Precision, ExportOptions], Layout]
    """The layout measured to be fastest (docs/performance.md)."""

    batch_size: int | None = None
    """The batch that is fixed unless you choose one; None leaves it dynamic."""

    dynamic_batch: bool = True
    """Whether a file can leave the batch open."""

    fixes_batch: bool = False
    """Whether you can choose a batch that is fixed."""

    has_opsets: bool = False
    """Whether you can choose the operator set."""

    has_names: bool = False
    """Whether you can choose the names of the input and the output."""

    layouts: tuple[Layout, ...] = LAYOUTS
    """The layouts that can be written."""

    serialize: Callable[[LeViT, Provenance, ExportOptions], bytes]
    """The file of a plain network in either layout: the same bytes every time."""

    rounded: (
        Callable[[LeViT, Provenance, ExportOptions, Images], Callable[[Provenance], bytes]] | None
    ) = None
    """Round a plain network as a whole, for a target whose own library does that.

    The provenance's precision tells how. 'int8' is calibrated on the images, which are as the file
    takes them, and 'int8-dynamic' ignores them. Gives a function that writes the file with a
    provenance that is known later: its accuracy.
    """

    libraries: tuple[str, ...] = ()
    """Packages of which another version may write the same network otherwise."""

    chosen: Callable[[ExportOptions, bytes], ExportOptions] = lambda options, _data: options
    """The options of a file that was written: those that its metadata tell, and its own."""

    difference: Callable[[bytes, bytes, bytes], str] | None = None
    """The first difference of a file from two others of one network, in words; empty if none.

    Each of its numbers must lie between theirs. None compares the bytes.
    """

    standard: Callable[[LeViT, Provenance, ExportOptions, Path, bytes], Int8Standard] | None = None
    """The standard for a rounded file with this content, from a plain network in its layout.

    Raises VerificationError if the file is not that network, rounded.
    """

    check_file: Callable[[Path], dict[str, int]]
    """Facts of a written file; raises VerificationError if it breaks the format's contract."""

    recognises: Callable[[bytes], bool]
    """Whether a file that begins with these START bytes is of this format."""

    load: Loader
    """Open a file; the artifact's ``values`` look inside."""

    runtime_modules: tuple[str, ...]
    """Modules that running a file imports."""

    isolated: bool = True
    """Whether the file is a program, run in a process of its own."""

    triton: TritonBackend | None = None

    processor: str = ""
    """The kind of processor that native code is for; empty if any runs the files."""

    note: str = ""
    """A sentence that the command line tells of each file."""

    @property
    def written_with(self) -> str:
        """The installed versions of ``libraries``."""
        return versions_of(self.libraries)


def versions_of(libraries: tuple[str, ...]) -> str:
    """Return installed versions, in words; a build of torch for GPUs writes the same.

    A library that is not installed is left out. The target says so when it is to write.
    """
    # this takes time, and ``--help`` reads the targets
    from importlib.metadata import PackageNotFoundError, version

    words = []
    for name in libraries:
        with suppress(PackageNotFoundError):
            words.append(f"{name} {version(name).partition('+')[0]}")
    return ", ".join(words)


def first_member(start: bytes) -> str:
    """Return the first name in a zip archive that begins so, without torch's outer folder.

    It is empty if the file is no archive. Source: APPNOTE.TXT of PKWARE, 4.3.7.
    """
    if not start.startswith(b"PK\x03\x04"):
        return ""
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")].decode(errors="replace")
    return name.partition("/")[2] or name
