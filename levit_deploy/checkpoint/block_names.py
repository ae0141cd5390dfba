"""Find the names that a checkpoint gives to the blocks of the network."""

import re
from collections.abc import Mapping
from itertools import takewhile

from torch import Tensor

_BLOCK = re.compile(r"(patch_embed\.[0-9]+|blocks\.[0-9]+|head(?:_dist)?)\..+")


def block_names(state: Mapping[str, Tensor], canonical: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of the blocks in ``state``, by canonical name.

    ``canonical`` holds the tensors of ``state`` under canonical names, a few merged from several.
    A block's name is the part that the names of its tensors share.
    """
    names_in_file = {tensor.data_ptr(): key for key, tensor in state.items() if tensor.numel()}
    members: dict[str, list[str]] = {}
    for key, tensor in canonical.items():
        if (match := _BLOCK.fullmatch(key)) and tensor.data_ptr() in names_in_file:
            members.setdefault(match[1], []).append(names_in_file[tensor.data_ptr()])
    names = {}
    for block, keys in members.items():
        levels = zip(*(key.split(".")[:-1] for key in keys), strict=False)
        shared = takewhile(lambda parts: len(set(parts)) == 1, levels)
        names[block] = ".".join(parts[0] for parts in shared) or block
    if "head_dist" in names:  # the logits of both heads are averaged
        names["head"] += f" and {names.pop('head_dist')}"
    return names
