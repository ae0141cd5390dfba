"""Weights in several files, with an index that says which file has which tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levit_deploy.checkpoint.files import CheckpointFile, read_file
from levit_deploy.errors import CheckpointError
from levit_deploy.regular_files import read_regular

MAX_INDEX_BYTES = 1 << 22  # 232 tensors take 25 kB


def shards_of(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names, in order. Raises CheckpointError for a bad index."""
    return tuple(index.parent / name for name in sorted(set(_weight_map(index).values())))


def read_shards(index: Path) -> CheckpointFile:
    """Read all the shards of an index.

    ``sha256`` is that of what ``sha256sum`` prints of the index and its shards, in order. Raises
    CheckpointError if the index and its shards disagree, and the errors of ``read_file``.
    """
    weight_map = _weight_map(index)
    contents: dict[str, Any] = {}
    sums = f"{hashlib.sha256(read_regular(index)).hexdigest()}  {index.name}\n"
    for shard in shards_of(index):
        if not shard.exists():
            raise CheckpointError(
                f"{index} names {shard.name}, which is not beside it. Expected every shard of the "
                "model. Copy the folder again."
            )
        file = read_file(shard)
        promised = {name for name, of in weight_map.items() if of == shard.name}
        if file.contents.keys() != promised:
            missing = sorted(promised - file.contents.keys())
            surplus = sorted(map(str, file.contents.keys() - promised))
            difference = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, too"
            raise CheckpointError(
                f"{shard} {difference}, and {index.name} says otherwise. Expected the shards and "
                "the index of one model. Save the model again, or copy all its files again."
            )
        contents |= file.contents
        sums += f"{file.sha256}  {shard.name}\n"
    sha256 = hashlib.sha256(sums.encode()).hexdigest()
    return CheckpointFile(path=index, sha256=sha256, contents=contents)


def _weight_map(index: Path) -> Mapping[str, str]:
    """The name of the file of each tensor. Only plain names in the index's own folder are."""
    try:
        contents = json.loads(read_regular(index, limit=MAX_INDEX_BYTES))
        weight_map = contents.get("weight_map") if isinstance(contents, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("it has no weight_map")
        for name in weight_map.values():
            if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
                raise ValueError(f"it names {name!r}, which is no file beside it")
        return weight_map
    except OSError as error:
        raise CheckpointError(
            f"{index} cannot be read: {error.strerror}. Expected the index of the shards beside "
            "it. Copy it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is not an index of shards: {error}. Expected the name of a file for each "
            "tensor. Save the model again."
        ) from error
