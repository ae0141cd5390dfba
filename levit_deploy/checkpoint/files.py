"""Read the contents of a checkpoint file without running any code from it."""

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
    """A file's contents: nested dicts with tensors for torch files, a flat dict for safetensors.

    ``metadata`` is from the safetensors header, and empty for torch files.
    """

    path: Path
    sha256: str
    contents: dict[str, Any]
    metadata: dict[str, str]


def read_file(path: Path) -> CheckpointFile:
    """Read a ``.pth`` (zip) or ``.safetensors`` file, recognised by its first bytes.

    Raises CheckpointError if it is neither, and UnsafeInputError if reading it would run code.
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
            f"{path} cannot be read: {error.strerror}. Expected a .pth file from torch.save, or a "
            ".safetensors file. Check the file and its permissions."
        ) from error

    if start.startswith(b"PK\x03\x04"):
        return CheckpointFile(path, sha256, _read_torch(path), {})
    if start[8:9] == b"{":  # safetensors: eight bytes of length, then a JSON object
        contents, metadata = _read_safetensors(path)
        return CheckpointFile(path, sha256, contents, metadata)
    if start.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a bare pickle, as torch wrote before 1.6. Expected torch's zip format or "
            "safetensors. If you trust the file, load it and save it again with torch.save."
        )
    raise CheckpointError(
        f"{path} is not a checkpoint: it starts with {start!r}. Expected a .pth file from "
        "torch.save, or a .safetensors file. Check the path."
    )


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            _require_plain_archive(archive, path)
            _require_harmless_pickle(archive, path)
        # given a path, torch.load chooses its reader by the file's name
        with path.open("rb") as file, torch.serialization.safe_globals(_INERT):
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except (CheckpointError, UnsafeInputError):
        raise
    except Exception as error:  # a damaged archive can make the readers raise anything
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch advises to load it unsafely
            reason = "its pickle has an instruction or a value that weights never need"
        raise CheckpointError(
            f"{path} looks like a torch file but cannot be read: {reason}. It may be truncated or "
            "damaged, or saved without torch.save's defaults. Copy it or save it again."
        ) from error
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"{path} holds a {type(contents).__name__}. Expected a state dict, or a dict with a "
            "state dict under 'model'. Save model.state_dict()."
        )
    return contents


class _Inert:
    """Stands for an object that a training run saved beside its weights. It is not used."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


_INERT: list[Any] = [(_Inert, name) for name in sorted(TRAINING - {"_codecs.encode"})]


def _require_plain_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise CheckpointError for an archive that torch.save cannot have written."""
    members, size = archive.infolist(), path.stat().st_size
    names = [member.filename.lower() for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a checkpoint. Expected a state dict from "
            "torch.save. Give the checkpoint that the program was made from."
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
        problems.append("it does not have exactly one data.pkl")
    if problems:
        raise CheckpointError(
            f"{path} is an archive unlike those of torch.save: {', '.join(problems)}. Save the "
            "state dict again with torch.save."
        )


def _require_harmless_pickle(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise UnsafeInputError for names that are not allowed, CheckpointError for other oddities."""
    member = next(name for name in archive.namelist() if name.lower().endswith("data.pkl"))
    with archive.open(member) as file:
        pickle_scan = scan(file.read(MAX_BYTES + 1))  # one byte more shows that it is too long
    unknown = pickle_scan.names - WEIGHTS - TRAINING
    kinds = unknown & OTHER_TENSORS
    if unsafe := unknown - kinds:
        raise UnsafeInputError(
            f"{path} can only be read by running code it names: {', '.join(sorted(unsafe))}. "
            "Expected tensors, plain values, argparse.Namespace and numpy scalars. Nothing was "
            "run. If you trust the file, load it yourself and save its state dict alone."
        )
    if kinds or pickle_scan.problem:
        others = f"it holds tensors of another kind ({', '.join(sorted(kinds))})"
        raise CheckpointError(
            f"{path} is not a checkpoint of weights: {pickle_scan.problem or others}. Expected a "
            "state dict of ordinary tensors from torch.save. Save the state dict alone."
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return dict(load_file(path)), metadata
    except Exception as error:  # the library's own errors, and others for types it does not know
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path} looks like a safetensors file but cannot be read: {first_line(error)}. It may "
            "be truncated or damaged. Copy it again."
        ) from error
