"""What ``levit-deploy fuse`` writes: plain layers in safetensors, the provenance beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from levit_deploy.checkpoint.strict import load_strictly
from levit_deploy.errors import CheckpointError
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance

FAMILY = "levit-deploy fused"


def serialize(model: LeViT, provenance: Provenance) -> bytes:
    """The bytes of a fused file: a plain model in the tokens layout."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    return save(tensors, metadata=provenance.to_metadata())


def restore(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
) -> tuple[LeViT, Provenance]:
    """Rebuild the plain model of a fused file, with the provenance it was given.

    The config is that of what the file holds: one head. Raises CheckpointError for damage.
    """
    try:
        provenance = Provenance.from_metadata(metadata)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} says that levit-deploy wrote it, but its metadata is damaged "
            f"({type(error).__name__}: {error}). Fuse the original checkpoint again."
        ) from error
    config = provenance.config.replace(distillation=False)  # fusing leaves one head
    model = to_plain(LeViT(config))
    load_strictly(model, tensors)
    return model, replace(provenance, config=config)
