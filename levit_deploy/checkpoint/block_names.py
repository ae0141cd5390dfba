"""What a checkpoint calls the blocks of the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_BLOCK = re.compile(r"(patch_embed\.[0-9]+|blocks\.[0-9]+|head(?:_dist)?)\..+")


def block_names(state: Mapping[str, Tensor], canonical: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of the blocks in ``state``, by their canonical ones.

    ``canonical`` holds tensors of ``state`` under canonical names, some perhaps put together from
    several. A block is called what the names of its tensors have in common.
    """
    theirs = {tensor.data_ptr(): key for key, tensor in state.items() if tensor.numel()}
    members: dict[str, list[str]] = {}
    for key, tensor in canonical.items():
        if (match := _BLOCK.fullmatch(key)) and tensor.data_ptr() in theirs:
            members.setdefault(match[1], []).append(theirs[tensor.data_ptr()])
    names = {block: _shared(keys) or block for block, keys in members.items()}
    if "head_dist" in names:  # its logits are averaged with the other head's
        names["head"] += f" and {names.pop('head_dist')}"
    return names


def _shared(keys: Iterable[str]) -> str:
    """The leading parts that dotted names have in common, without the last part of any."""
    shared = []
    for parts in zip(*(key.split(".")[:-1] for key in keys), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
