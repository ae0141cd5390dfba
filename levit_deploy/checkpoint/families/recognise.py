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

    ``OURS`` are the names of tensors that only this family has, ``TRUNK`` all those of the trunk,
    and ``HEADS`` the modules of the heads. ``matches`` tells whether names are the family's.
    ``convert`` gives the tensors their canonical names. ``known`` returns the facts that the
    family's code fixes or its ``config.json`` states. The config is empty if there is none.
    ``release`` is the one the network was trained with, None if that is not given.
    """

    FAMILY: str
    OURS: re.Pattern[str]
    TRUNK: re.Pattern[str]
    HEADS: tuple[str, ...]

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

_OURS = re.compile("|".join(f"(?:{reader.OURS.pattern})" for reader in READERS))

# Networks easily taken for a LeViT, each with names that no LeViT has.
_OTHER_NETWORKS = {
    "a TinyViT": r"patch_embed\.(seq\.0\.c|conv1\.conv)\..+|(layers|stages)\..+\.local_conv\..+",
    "an EfficientFormer": r"(network|stages)\..+\.token_mixer\..+",
    "a Swin Transformer": r".+\.relative_position_bias_table",
    "a LeViT-UNet": r"cnn_b1\..+",
    "a LoRA adapter": r".+\.lora_[AB]\..+",
    # last, as others have its names behind a prefix
    "a ViT or DeiT": r"cls_token|pos_embed|blocks\.\d+\.attn\.qkv\.weight",
}
# Parts of names that say nothing of a family.
_COMMON = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "bn"}


def begin_of_trunk(name: str) -> int | None:
    """The position at which a family's own name begins in ``name``, behind any prefix, if any."""
    begin = 0
    while _OURS.match(name, begin) is None:
        begin = name.find(".", begin) + 1
        if begin == 0:
            return None
    ours = any(reader.TRUNK.fullmatch(name, begin) for reader in READERS)
    return begin if ours else None


def recognise(state: Mapping[str, Tensor], path: Path) -> Reader:
    """Return the one reader whose family has these names.

    Raises CheckpointError, with some of the names, if no reader matches or more than one.
    """
    matching = [reader for reader in READERS if reader.matches(state.keys())]
    if len(matching) > 1:
        families = " and ".join(reader.FAMILY for reader in matching)
        keys = ", ".join(list(state)[:4])
        raise CheckpointError(
            f"{path} holds the names of {families} at once ({keys}, ...). Expected the names of "
            "one family. Save the state dict of one model alone."
        )
    if matching:
        return matching[0]
    raise other_network(path, "", state)


def other_network(path: Path, place: str, state: Mapping[str, Tensor]) -> CheckpointError:
    """The error for tensors that no family has, found under the key ``place``."""
    names = [name for name in state if len(name) < 200]
    strangers = [
        network
        for network, pattern in _OTHER_NETWORKS.items()
        if any(re.search(rf"(?:^|\.)(?:{pattern})$", name) for name in names)
    ]
    looks = f", which look like {strangers[0]}'s" if strangers else ""
    under = f" under {place!r}" if place else ""
    return CheckpointError(
        f"{path} holds {len(state)} tensors{under}, such as {', '.join(names[:4])}{looks}. "
        "Expected the names of a LeViT behind any prefix, such as patch_embed.0.c.weight "
        f"(official) or stem.conv1.linear.weight (timm).{_nearest(names)} Known layouts are "
        f"{', '.join(reader.FAMILY for reader in READERS)}. Check that this is a LeViT's "
        "checkpoint."
    )


def _nearest(names: Collection[str]) -> str:
    """A sentence on the family that shares most parts of names, or nothing."""
    parts = {part for name in names for part in re.split("[./]", name)} - _COMMON
    shared = {
        reader.FAMILY: sorted(parts.intersection(re.findall(r"[a-z]\w+", reader.TRUNK.pattern)))
        for reader in READERS
    }
    family = max(shared, key=lambda family: len(shared[family]))
    if not shared[family]:
        return ""
    return f" The nearest family is {family}, which has {', '.join(shared[family][:4])}, too."
