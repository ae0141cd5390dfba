"""Which code saved a checkpoint, told by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from levit_deploy.checkpoint.families import layernorm, official, timm, transformers, vit_pytorch
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.errors import CheckpointError


class Reader(Protocol):
    """A module for one family of checkpoints.

    ``matches`` says whether these are the family's names; ``convert`` gives the tensors their
    canonical ones; ``known`` says what tensors do not tell and the family's code fixes or its
    ``config.json`` (empty where there is none) states.
    """

    FAMILY: str

    def matches(self, keys: Collection[str]) -> bool: ...

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def known(self, config: Mapping[str, Any]) -> Known: ...


READERS: tuple[Reader, ...] = (official, timm, transformers, vit_pytorch, layernorm)

# Networks people take for a LeViT, each with names that none has.
_OTHER_NETWORKS = {
    "a ViT or DeiT": r"cls_token|pos_embed|blocks\.\d+\.attn\.qkv\.weight",
    "a TinyViT": r"patch_embed\.(seq\.0\.c|conv1\.conv)\..+|(layers|stages)\..+\.local_conv\..+",
    "an EfficientFormer": r"(network|stages)\..+\.token_mixer\..+",
    "a Swin Transformer": r".+\.relative_position_bias_table",
    "a LeViT-UNet": r"cnn_b1\..+",
}


def recognise(state: Mapping[str, Tensor], path: Path) -> Reader:
    """Return the one reader whose names these are.

    Raises CheckpointError, with names seen, where none matches or more than one.
    """
    matching = [reader for reader in READERS if reader.matches(state.keys())]
    keys = ", ".join(list(state)[:4])
    if len(matching) > 1:
        families = " and ".join(reader.FAMILY for reader in matching)
        raise CheckpointError(
            f"{path} holds the names of {families} at once ({keys}, ...). Expected one network as "
            "one of them saves it. Save the state dict of one model alone."
        )
    if matching:
        return matching[0]
    stranger = next(
        (
            network
            for network, names in _OTHER_NETWORKS.items()
            if any(re.fullmatch(names, key) for key in state)
        ),
        None,
    )
    looks = f", which look like {stranger}'s" if stranger else ""
    raise CheckpointError(
        f"{path} holds {len(state)} tensors, such as {keys}{looks}: not the names of a LeViT as "
        f"{', '.join(reader.FAMILY for reader in READERS)} save it. Expected names such as "
        "patch_embed.0.c.weight or stem.conv1.linear.weight. Give a LeViT's checkpoint."
    )
