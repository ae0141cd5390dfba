"""Find the weights and the config in a folder that a hub library saved."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levit_deploy.checkpoint.elsewhere import INDEX, INDEXES, WEIGHTS, advice_for_folder
from levit_deploy.checkpoint.shards import shards_of
from levit_deploy.config import Grid
from levit_deploy.errors import CheckpointError
from levit_deploy.regular_files import read_regular

CONFIG = "config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"  # of transformers, with the preprocessing
PROCESSOR_CONFIG = "processor_config.json"  # newer versions look here first
ALONE = (WEIGHTS[0], INDEXES[0], WEIGHTS[1], INDEXES[1])  # as transformers looks for them
PAIR = (
    "The weights beside it are of another kind of LeViT. Expected the two files of one model. Put "
    "those into the folder, or give the weights file alone."
)
MAX_CONFIG_BYTES = 1 << 20  # a thousand class names take 50 kB


def locate(path: Path) -> tuple[tuple[Path, ...], Mapping[str, Any]]:
    """Return the files to read at ``path``, a file or a folder, and the folder's config.

    The weights come first, or the index of their shards and then these. The config is empty for a
    file. It holds the contents of transformers' other files under their names, PREPROCESSOR_CONFIG
    and PROCESSOR_CONFIG. Raises CheckpointError for a folder without weights, and for a config
    that is not a JSON object.
    """
    try:
        if not path.is_dir():
            return (path, *_shards(path)), {}
        weights = next((path / name for name in ALONE if (path / name).is_file()), None)
        advice = None if weights else advice_for_folder(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if weights is None:
        raise CheckpointError(str(advice))
    files: list[Path] = [weights, *_shards(weights)]
    config: dict[str, Any] = {}
    if (path / CONFIG).exists():
        files.append(path / CONFIG)
        config |= _read_config(path / CONFIG)
    for name in (PREPROCESSOR_CONFIG, PROCESSOR_CONFIG):
        if (path / name).exists():
            files.append(path / name)
            config[name] = _read_config(path / name)
    return tuple(files), config


def _shards(path: Path) -> tuple[Path, ...]:
    return shards_of(path) if path.name.endswith(INDEX) else ()


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(read_regular(path, limit=MAX_CONFIG_BYTES))
        if not isinstance(config, dict):
            raise ValueError(f"it is a {type(config).__name__}")
        return config
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. Expected a small file. Repair it, or give "
            "the weights file alone."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not the config of a model: {error}. Expected a JSON object. Repair it, or "
            "give the weights file alone."
        ) from error


def image_size_of(value: object, source: str = CONFIG) -> Grid:
    """Read (height, width) from a config's side, [height, width] or [channels, height, width].

    ``source`` is the place of the config. Raises CheckpointError for anything else.
    """
    sides = [value, value] if isinstance(value, int) else value
    if isinstance(sides, list | tuple) and len(sides) in (2, 3):
        height, width = sides[-2:]
        if all(type(side) is int and 0 < side < 100_000 for side in (height, width)):
            return height, width
    raise CheckpointError(
        f"{source} says that the image size is {repr(value)[:80]}. Expected a number of "
        "pixels, or height and width. Correct that, or give the weights alone."
    )
