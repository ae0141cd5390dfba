"""The kinds of processor that compiled code is for.

A kind is a level of the x86-64 psABI, which g++ and clang know by name. torch's compiler also uses
the instructions in ``_EXTRA``, if the processor that it runs on has them.
"""

import platform
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from levit_deploy.errors import ArtifactError, UsageError

_V3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe"  # as Linux calls them
_V4 = f"{_V3} avx512f avx512bw avx512cd avx512dq avx512vl"
_EXTRA = "avx512_bf16 avx512_vnni amx_tile amx_bf16 amx_int8 amx_fp16"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of processor.

    ``name`` is that in file names, ``level`` that of the psABI. ``bits`` is the width of a vector.
    ``flags`` are the instructions that it has, ``extra`` those of them that not all of its kind
    have.
    """

    name: str
    level: str
    bits: int
    flags: tuple[str, ...]
    extra: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As in metadata."""
        return " ".join((self.name, *self.extra))


KINDS = (
    Kind(name="avx512", level="x86-64-v4", bits=512, flags=tuple(_V4.split())),
    Kind(name="avx2", level="x86-64-v3", bits=256, flags=tuple(_V3.split())),
)


def this_kind() -> Kind:
    """Return the best kind that this processor is of; raise UsageError if it is of none."""
    flags = _flags()
    for kind in KINDS:
        if flags.issuperset(kind.flags):
            extra = _EXTRA.split() if kind.bits == 512 else []
            return Kind(**{**vars(kind), "extra": tuple(e for e in extra if e in flags)})
    raise UsageError(
        f"--compile is for Linux on an x86-64 processor with AVX2, and this is {sys.platform} on "
        f"{platform.machine()}{' without it' if flags else ''}. Export on a machine like the one "
        "that will run the file, or leave --compile out: torch runs such a file everywhere."
    )


def has_any(flags: Collection[str]) -> bool:
    """Whether this processor has one of these instructions, as Linux calls them."""
    return not _flags().isdisjoint(flags)


def require_processor(path: Path, claimed: str) -> None:
    """Raise ArtifactError if this processor lacks instructions that a compiled file needs.

    ``claimed`` is the kind in its metadata.
    """
    name, *extra = claimed.split() or [""]
    kind = next((kind for kind in KINDS if kind.name == name), None)
    if kind is None:
        raise ArtifactError(
            f"{path} is compiled for the processor {claimed!r} by its metadata. Expected one of "
            f"{', '.join(kind.name for kind in KINDS)}. Export it again."
        )
    missing = [flag for flag in (*kind.flags, *extra) if flag not in _flags()]
    if missing:
        raise ArtifactError(
            f"{path} is compiled for processors with {', '.join((kind.level, *extra))}, and this "
            f"one lacks {', '.join(missing)}. It would crash here. Export it again on a machine "
            "like this one, or without --compile."
        )


def _flags() -> set[str]:
    """The instructions of this processor, none if it is not x86-64 or the system is not Linux."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return set(flags.split())
    return set()
