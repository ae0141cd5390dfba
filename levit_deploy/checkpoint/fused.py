"""Write and read the files of ``levit-deploy fuse``: plain layers and provenance in safetensors."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from levit_deploy.checkpoint.strict import (
    empty_model,
    numbers,
    refuse_other_names_or_shapes,
)
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import CheckpointError
from levit_deploy.model import AttentionBias, LeViT
from levit_deploy.passes import to_plain_float64
from levit_deploy.provenance import Provenance

FAMILY = "levit-deploy fused"


def serialize(model: LeViT, provenance: Provenance) -> bytes:
    """The bytes of a fused file, from a plain model in the tokens layout."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return _in_order(save(tensors, metadata=provenance.to_metadata()))


def _in_order(data: bytes) -> bytes:
    """Sort the metadata, which the library writes in another order every time.

    A file is the header's length in 8 little-endian bytes, then the header, then the numbers. The
    header is JSON, padded with spaces to a multiple of 8 (README of huggingface/safetensors,
    "Format").
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def restore(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
) -> tuple[LeViT, Provenance]:
    """Rebuild the plain model of a fused file, and return its provenance.

    The config has one head, as the file has. Raises CheckpointError for a damaged file.
    """
    try:
        provenance = Provenance.from_metadata(metadata)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} says that levit-deploy wrote it, but its metadata is damaged "
            f"({type(error).__name__}: {error}). Fuse the original checkpoint again."
        ) from error
    config = provenance.config.replace(distillation=False)  # fusing leaves one head
    _require_plausible(config, tensors, path)
    model = to_plain_float64(LeViT(config)).float()  # the layers; their numbers are in the file
    expected = model.state_dict()
    refuse_other_names_or_shapes(expected, tensors)
    model.load_state_dict(
        {key: numbers(key, tensor, expected[key].dtype) for key, tensor in tensors.items()},
        assign=True,
    )
    return model, replace(provenance, config=config)


def _require_plausible(config: LeViTConfig, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError if a config needs far more memory than the file has numbers."""
    stored = sum(tensor.numel() for tensor in tensors.values())
    plausible = sum(stage.depth for stage in config.stages) <= len(tensors)
    if plausible:
        model = empty_model(config)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        biases = [module for module in model.modules() if isinstance(module, AttentionBias)]
        tables = sum(bias.biases.shape[0] * bias.idxs.numel() for bias in biases)
        # a BatchNorm has two numbers a channel, and its layer at least as many
        plausible = parameters <= 3 * stored and tables <= stored
    if not plausible:
        raise CheckpointError(
            f"{path} describes a far larger network in its metadata than its {stored} numbers "
            "make. Expected the two to agree. Fuse the original checkpoint again."
        )
