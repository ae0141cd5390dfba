"""From a path to its contents, without running anything the file brings along."""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from levit_deploy.errors import (
    CheckpointError,
    UnsafeInputError,
    first_line,
    is_out_of_memory,
)

# The one class beyond torch's own allow-list that official training runs save (main.py: 'args').
ALLOWED_GLOBALS = {"argparse.Namespace"}


@dataclass(frozen=True)
class CheckpointFile:
    """What a file holds: nested dicts with tensors for torch files, a flat dict for safetensors.

    ``metadata`` is the safetensors header's, empty for torch files.
    """

    path: Path
    sha256: str
    contents: dict[str, Any]
    metadata: dict[str, str]


def read_file(path: Path) -> CheckpointFile:
    """Read a ``.pth`` (zip) or ``.safetensors`` file, recognised by its first bytes.

    Raises CheckpointError where it is neither, UnsafeInputError where it needs code to be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the path.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error

    if start.startswith(b"PK\x03\x04"):
        return CheckpointFile(path, sha256, _read_torch(path), {})
    if start[8:9] == b"{":  # safetensors: eight bytes of length, then a JSON object
        contents, metadata = _read_safetensors(path)
        return CheckpointFile(path, sha256, contents, metadata)
    if start.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a bare pickle, as torch wrote before 1.6. Expected torch's zip format or "
            "safetensors. Load it where you trust it and save it again with torch.save."
        )
    raise CheckpointError(
        f"{path} is not a checkpoint: it starts with {start!r}. Expected a .pth as torch.save "
        "writes it, or a .safetensors file."
    )


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    f"{path} is a TorchScript program, not a checkpoint. Expected a state dict as "
                    "torch.save writes it. Give the file the program was made from."
                )
        unsafe = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - ALLOWED_GLOBALS
        if unsafe:
            raise UnsafeInputError(
                f"{path} can only be read by running code it names: {', '.join(sorted(unsafe))}. "
                "Expected tensors, plain values and argparse.Namespace. Nothing was run. Where you "
                "trust the file, load it yourself and save its state dict alone."
            )
        # given a path, torch.load would choose its reader by the file's name
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except (CheckpointError, UnsafeInputError):
        raise
    except Exception as error:  # the readers raise whatever a damaged archive leads them to
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path} looks like a torch file but cannot be read: {first_line(error)}. It may "
            "be truncated or damaged, or saved with other than torch.save's defaults. Copy or save "
            "it again."
        ) from error
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"{path} holds a {type(contents).__name__}. Expected a state dict, or a dict with one "
            "under 'model'. Save model.state_dict()."
        )
    return contents


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return dict(load_file(path)), metadata
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} looks like a safetensors file but cannot be read: {error}. It may be "
            "truncated or damaged. Copy it again."
        ) from error
