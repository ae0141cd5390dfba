"""From a path to its contents, without running anything the file brings along."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from levit_deploy.checkpoint.pickle_scan import MAX_BYTES, OTHER_TENSORS, TRAINING, WEIGHTS, scan
from levit_deploy.errors import CheckpointError, UnsafeInputError, first_line, is_out_of_memory
from levit_deploy.regular_files import open_regular


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
        with open_regular(path) as file:
            start = file.read(9)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the path.") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. Expected a .pth as torch.save writes it, or "
            "a .safetensors file."
        ) from error

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
            _require_plain_archive(archive, path)
            _require_harmless_pickle(archive, path)
        # given a path, torch.load would choose its reader by the file's name
        with path.open("rb") as file, torch.serialization.safe_globals(_INERT):
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except (CheckpointError, UnsafeInputError):
        raise
    except Exception as error:  # the readers raise whatever a damaged archive leads them to
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's advice is to load it unsafely
            reason = "its pickle has an instruction or a value that no weights need"
        raise CheckpointError(
            f"{path} looks like a torch file but cannot be read: {reason}. It may be truncated or "
            "damaged, or saved with other than torch.save's defaults. Copy or save it again."
        ) from error
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"{path} holds a {type(contents).__name__}. Expected a state dict, or a dict with one "
            "under 'model'. Save model.state_dict()."
        )
    return contents


class _Inert:
    """Stands for what a training run kept beside its weights and nobody needs here."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


_INERT: list[Any] = [(_Inert, name) for name in sorted(TRAINING - {"_codecs.encode"})]


def _require_plain_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise CheckpointError for an archive that torch.save does not write."""
    members, size = archive.infolist(), path.stat().st_size
    names = [member.filename.lower() for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint. Expected a state dict as "
            "torch.save writes it. Give the file the program was made from."
        )
    problems = []
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        problems.append("its members are compressed")
    if any(member.flag_bits & 1 for member in members):
        problems.append("its members are encrypted")
    if sum(member.file_size for member in members) > size:
        problems.append("its members are larger than the file")
    if len(set(names)) < len(names):
        problems.append("two members have one name")
    if sum(name.rpartition("/")[2] == "data.pkl" for name in names) != 1:
        problems.append("it has not one data.pkl")
    if problems:
        raise CheckpointError(
            f"{path} is an archive, but not as torch.save writes it: {', '.join(problems)}. Save "
            "the state dict again with torch.save."
        )


def _require_harmless_pickle(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise UnsafeInputError for names outside the list, CheckpointError for other oddities."""
    member = next(name for name in archive.namelist() if name.lower().endswith("data.pkl"))
    with archive.open(member) as file:
        found = scan(file.read(MAX_BYTES + 1))  # enough for the scan to see that it is too long
    unknown = found.names - WEIGHTS - TRAINING
    kinds = unknown & OTHER_TENSORS
    if unsafe := unknown - kinds:
        raise UnsafeInputError(
            f"{path} can only be read by running code it names: {', '.join(sorted(unsafe))}. "
            "Expected tensors, plain values, argparse.Namespace and numpy scalars. Nothing was "
            "run. Where you trust the file, load it yourself and save its state dict alone."
        )
    if kinds or found.problem:
        reason = found.problem or f"it holds tensors of another kind ({', '.join(sorted(kinds))})"
        raise CheckpointError(
            f"{path} is no checkpoint of weights: {reason}. Expected what torch.save writes for a "
            "state dict of ordinary tensors. Save the state dict alone."
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return dict(load_file(path)), metadata
    except Exception as error:  # the library's own, and what a type it does not know leads to
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path} looks like a safetensors file but cannot be read: {first_line(error)}. It may "
            "be truncated or damaged. Copy it again."
        ) from error
