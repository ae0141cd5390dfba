"""Read the contents of a checkpoint file without running any code from it."""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from levit_deploy.checkpoint.elsewhere import advice_for_adapter, advice_for_file
from levit_deploy.checkpoint.pickles.allowance import Allowance
from levit_deploy.checkpoint.pickles.inert import Inert
from levit_deploy.checkpoint.pickles.modules import Modules
from levit_deploy.checkpoint.pickles.plain import plain
from levit_deploy.checkpoint.pickles.stored import OTHER_TENSORS, Storages
from levit_deploy.checkpoint.pickles.unpickle import Unpickler
from levit_deploy.errors import CheckpointError, UnsafeInputError, first_line, is_out_of_memory
from levit_deploy.regular_files import open_regular
from levit_deploy.text import listed


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """What a file holds.

    Attributes:
        path: The file, whose SHA-256 is ``sha256``.
        contents: Nested dicts with tensors for torch files, a flat dict for safetensors. Objects
            beside the weights are an ``Inert`` each.
        metadata: The header's metadata of safetensors, and empty for torch files.
        modules: The modules of a network that was saved whole, and empty for any other file.
    """

    path: Path
    sha256: str
    contents: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)
    modules: Modules = field(default_factory=dict)


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

    if advice := advice_for_file(path):
        raise CheckpointError(advice)
    if start.startswith(b"PK\x03\x04"):
        contents, modules = _read_torch(path)
        _refuse_adapter(contents, path)
        return CheckpointFile(path=path, sha256=sha256, contents=contents, modules=modules)
    if start[8:9] == b"{":  # safetensors: eight bytes of length, then a JSON object
        contents, metadata = _read_safetensors(path)
        _refuse_adapter(contents, path)
        return CheckpointFile(path=path, sha256=sha256, contents=contents, metadata=metadata)
    if start.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a bare pickle, as torch wrote before 1.6. Expected torch's zip format or "
            "safetensors. If you trust the file, load it and save it again with torch.save."
        )
    raise CheckpointError(
        f"{path} is not a checkpoint: it starts with {start!r}. Expected a .pth file from "
        "torch.save, or a .safetensors file. Check the path."
    )


def _refuse_adapter(contents: Mapping[str, Any], path: Path) -> None:
    if advice := advice_for_adapter(contents, path):
        raise CheckpointError(advice)


def _read_torch(path: Path) -> tuple[dict[str, Any], Modules]:
    try:
        with zipfile.ZipFile(path) as archive:
            _require_plain_archive(archive, path)
            allowance = Allowance()
            contents, modules, opaque = plain(_unpickled(archive, path, allowance), allowance)
    except (CheckpointError, UnsafeInputError):
        raise
    except Exception as error:  # a damaged archive can make the readers raise anything
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path} looks like a torch file but cannot be read: {first_line(error)}. It may be "
            "truncated or damaged, or hold much else than weights. Copy it again, or save its "
            "state dict alone."
        ) from error
    if not isinstance(contents, dict):
        kind = contents.class_name if isinstance(contents, Inert) else type(contents).__name__
        raise CheckpointError(
            f"{path} holds a {kind}. Expected a state dict, a dict with a state dict under "
            "'model', or a whole model. Save model.state_dict()."
        )
    if opaque is not None:
        key, class_name = opaque
        raise UnsafeInputError(
            f"{path} holds {key} as a {class_name}, and only that code can make a tensor of it. "
            "Expected ordinary tensors. Nothing was run. If you trust the file, load it yourself "
            "and save its state dict alone."
        )
    return contents, modules


def _require_plain_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise CheckpointError for an archive that torch.save cannot have written."""
    members, size = archive.infolist(), path.stat().st_size
    if not any(member.CRC for member in members):  # torch.serialization.set_crc32_options(False)
        for member in members:
            del member.CRC  # then, zipfile compares none
    names = [member.filename.lower() for member in members]
    kinds = {"constants.pkl": "TorchScript program", "archive_format": "program of torch.export"}
    for record, kind in kinds.items():
        if any(name.endswith(f"/{record}") for name in names):
            raise CheckpointError(
                f"{path} is a {kind}, not a checkpoint. Expected a state dict from torch.save. "
                "Give the checkpoint that the program was made from."
            )
    problems = []
    if any(
        member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size
        for member in members
    ):
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


def _unpickled(archive: zipfile.ZipFile, path: Path, allowance: Allowance) -> Any:
    """Read the pickle; raise UnsafeInputError for suspicious names, ValueError for other oddities.

    Raises CheckpointError for tensors that are no plain arrays.
    """
    member = next(name for name in archive.namelist() if name.lower().endswith("data.pkl"))
    storages = Storages(archive, member[: -len("data.pkl")])
    unpickler = Unpickler(archive.read(member), storages, allowance)
    try:
        return unpickler.load()
    finally:
        if unpickler.suspicious:
            raise UnsafeInputError(
                f"{path} names code that no checkpoint needs and that an attacker would run: "
                f"{listed(sorted(unpickler.suspicious), 8)}. Expected tensors, and objects of a "
                "training run. Nothing was run. If you trust the file, load it yourself and save "
                "its state dict alone."
            )
        if kinds := unpickler.names & OTHER_TENSORS:
            raise CheckpointError(
                f"{path} is not a checkpoint of weights: it holds tensors of another kind "
                f"({listed(sorted(kinds), 8)}). Expected a state dict of ordinary tensors from "
                "torch.save. Save the state dict alone."
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
