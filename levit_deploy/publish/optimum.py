"""An ONNX artifact in a folder that Optimum and transformers load as one of their own.

Optimum's ``ORTModelForImageClassification`` reads ``model.onnx`` and ``config.json``, the image
processor of transformers ``processor_config.json``, else ``preprocessor_config.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from levit_deploy.config import size_text
from levit_deploy.errors import UsageError
from levit_deploy.provenance import is_ours
from levit_deploy.publish.folder import refuse_bad_folder, staged_folder
from levit_deploy.regular_files import read_regular

if TYPE_CHECKING:  # which imports torch, for which a look at the paths does not wait
    from levit_deploy.checkpoint import Checkpoint

MODEL = "model.onnx"
NAMES = {MODEL, "config.json", "preprocessor_config.json", "processor_config.json"}


def hub_folder(output: str | Path) -> Path | None:
    """The folder that an output names: a text that ends in /, or a folder that exists."""
    path = Path(output)
    if not (str(output).endswith(("/", os.sep)) or path.is_dir()):
        return None
    return path if path.name not in ("", "..") else path.resolve()


def refuse_bad_hub_folder(folder: Path, force: bool) -> None:
    """Raise OutputError if ``staged_hub_folder`` could not, or must not, write."""
    refuse_bad_folder(folder, _is_hub_folder, force)


@contextmanager
def staged_hub_folder(folder: Path, checkpoint: Checkpoint, *, force: bool) -> Iterator[Path]:
    """Yield a path for the artifact; when the block succeeds, ``folder`` appears as a whole.

    The configs in it are the checkpoint's own, byte for byte. Raises UsageError if it has none, or
    if they contradict your options, and OutputError as ``staged_folder`` does.
    """
    configs = _configs(checkpoint)
    with staged_folder(folder, is_ours=_is_hub_folder, force=force) as temporary:
        for name, data in configs.items():
            (temporary / name).write_bytes(data)
        yield temporary / MODEL


def _configs(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The configs to go along, by name."""
    from levit_deploy.checkpoint.families import transformers
    from levit_deploy.checkpoint.folder import CONFIG, PREPROCESSOR_CONFIG

    configs = {path.name: read_regular(path) for path in checkpoint.files if path.name in NAMES}
    if checkpoint.family != transformers.FAMILY or CONFIG not in configs:
        is_transformers = checkpoint.family == transformers.FAMILY
        layout = f"is in the layout of {checkpoint.family}"
        why = f"was given without its {CONFIG}" if is_transformers else layout
        raise UsageError(
            "-o names a folder, which is for Optimum and needs the config of transformers' "
            f"LevitForImageClassification, but {checkpoint.path} {why}. Name a file with -o, or "
            f"give a folder with such a {CONFIG} as the CHECKPOINT."
        )
    texts = {name: json.loads(data) for name, data in configs.items()}
    saved = transformers.known(texts.pop(CONFIG) | texts)
    of_pictures = " or ".join(texts) or PREPROCESSOR_CONFIG
    image_size = saved.image_size or (224, 224)  # LevitConfig's own
    if image_size != checkpoint.config.image_size:
        raise UsageError(
            f"-o names a folder, into which the checkpoint's {CONFIG} goes as it is. It says "
            f"images of {size_text(image_size)}, and {size_text(checkpoint.config.image_size)} was "
            "asked for. Leave --image-size out, or name a file with -o."
        )
    if saved.picture_size not in (None, image_size):
        raise UsageError(
            f"-o names a folder, into which {checkpoint.path.parent}'s configs go as they are. By "
            f"them pictures are not cropped to the {size_text(image_size)} that the network takes, "
            f"and a pipeline would fail. Correct crop_size in {of_pictures}, or name a file with "
            "-o."
        )

    same_labels = checkpoint.labels == saved.labels
    alike = checkpoint.transform.same_images(saved.preprocessing)
    for option, same, place in (
        ("--labels", same_labels, f"id2label of {CONFIG}"),
        ("--preprocessing", alike, of_pictures),
    ):
        if not same:
            raise UsageError(
                f"-o names a folder, into which {checkpoint.path.parent}'s configs go as they are, "
                f"and which would contradict {option}. Leave the option out and write it into "
                f"{place} there, or name a file with -o."
            )
    return configs


def _is_hub_folder(folder: Path) -> bool:
    """Whether a folder holds the files of an export, and nothing else."""
    import onnx

    names = {entry.name for entry in folder.iterdir()}
    if MODEL not in names or not names <= NAMES:
        return False
    try:
        model = onnx.load_model_from_string(read_regular(folder / MODEL))
    except Exception:  # protobuf's own, or one of the system's: nothing that we wrote
        return False
    return is_ours({entry.key: entry.value for entry in model.metadata_props})
