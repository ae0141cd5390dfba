"""Recognise the code that saved a checkpoint by the names of its tensors."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from levit_deploy.checkpoint.families import (
    layernorm,
    mmpretrain,
    official,
    timm,
    transformers,
    vit_pytorch,
)
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.given import Release
from levit_deploy.errors import CheckpointError


class Reader(Protocol):
    """A module for one family of checkpoints.

    ``matches`` tells whether names are the family's. ``convert`` gives the tensors their canonical
    names. ``known`` returns the facts that the family's code fixes or its ``config.json`` states.
    The config is empty if there is none. ``release`` is the one the network was trained with, None
    if that is not given.
    """

    FAMILY: str

    def matches(self, keys: Collection[str]) -> bool: ...

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def known(self, config: Mapping[str, Any], release: Release | None = None) -> Known: ...


READERS: tuple[Reader, ...] = (
    official,
    timm,
    transformers,
    vit_pytorch,
    mmpretrain,
    layernorm,
)

# Networks easily taken for a LeViT, each with names that no LeViT has.
_OTHER_NETWORKS = {
    "a ViT or DeiT": r"cls_token|pos_embed|blocks\.\d+\.attn\.qkv\.weight",
    "a TinyViT": r"patch_embed\.(seq\.0\.c|conv1\.conv)\..+|(layers|stages)\..+\.local_conv\..+",
    "an EfficientFormer": r"(network|stages)\..+\.token_mixer\..+",
    "a Swin Transformer": r".+\.relative_position_bias_table",
    "a LeViT-UNet": r"cnn_b1\..+",
}


def recognise(state: Mapping[str, Tensor], path: Path) -> Reader:
    """Return the one reader whose family has these names.

    Raises CheckpointError, with some of the names, if no reader matches or more than one.
    """
    matching = [reader for reader in READERS if reader.matches(state.keys())]
    keys = ", ".join(list(state)[:4])
    if len(matching) > 1:
        families = " and ".join(reader.FAMILY for reader in matching)
        raise CheckpointError(
            f"{path} holds the names of {families} at once ({keys}, ...). Expected the names of "
            "one family. Save the state dict of one model alone."
        )
    if matching:
        return matching[0]
    strangers = [
        network
        for network, names in _OTHER_NETWORKS.items()
        if any(re.fullmatch(names, key) for key in state)
    ]
    looks = f", which look like {strangers[0]}'s" if strangers else ""
    raise CheckpointError(
        f"{path} holds {len(state)} tensors, such as {keys}{looks}. Expected the names of a LeViT, "
        "such as patch_embed.0.c.weight (official) or stem.conv1.linear.weight (timm). Known "
        f"layouts are {', '.join(reader.FAMILY for reader in READERS)}. Check that this is a "
        "LeViT's checkpoint."
    )
