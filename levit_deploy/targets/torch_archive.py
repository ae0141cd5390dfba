"""The zip archives that torch writes: their extra file, first member, and same bytes."""

import io
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from levit_deploy.provenance import Provenance

PROVENANCE_FILE = "provenance.json"  # an extra file
NOTHING: Mapping[str, str] = MappingProxyType({})
_WRITTEN_BY_THE_WRITER = {"version", "byteorder", ".data/version", ".data/serialization_id"}


def extra_files(provenance: Provenance) -> dict[str, str]:
    """The provenance, as the extra file of an archive."""
    return {PROVENANCE_FILE: json.dumps(provenance.to_metadata(), sort_keys=True)}


def extra_file(archive: bytes) -> str:
    """The text of that extra file; empty if the archive has none, or cannot be read."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
        return bytes(reader.get_record(f"extra/{PROVENANCE_FILE}")).decode()
    except (RuntimeError, ValueError):
        return ""


def rewritten(
    archive: io.BytesIO,
    edited: Callable[[str, bytes], tuple[str, bytes] | None],
    added: Mapping[str, str] = NOTHING,
) -> bytes:
    """Write an archive anew, without an identity, each record as ``edited`` by its name.

    ``edited`` returns None to leave a record out. ``added`` are extra files.
    """
    archive.seek(0)
    reader = torch._C.PyTorchFileReader(archive)
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name in reader.get_all_records():
        kept = None if name in _WRITTEN_BY_THE_WRITER else edited(name, reader.get_record(name))
        if kept is not None:
            writer.write_record(*kept, len(kept[1]))
    for name, text in added.items():
        writer.write_record(f"extra/{name}", text.encode(), len(text.encode()))
    writer.write_end_of_file()
    return buffer.getvalue()
