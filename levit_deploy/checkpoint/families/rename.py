"""Give the tensors of a family their canonical names, name by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from levit_deploy.errors import CheckpointError


@dataclass(frozen=True)
class InBlock:
    """A name in the trunk: where its block stands among the others, and the name within it.

    Positions are compared like tuples. At each level they count from 0, or start before it where
    something comes first, without a gap.
    """

    position: tuple[int, ...]
    name: str


def rename(
    state: Mapping[str, Tensor], canonical: Callable[[str], str | InBlock]
) -> dict[str, Tensor]:
    """Return the tensors under the names ``canonical`` gives, the blocks numbered in order.

    1x1 convolutions in the trunk, (out, in, 1, 1), become the linear layers they are. Raises
    CheckpointError where two tensors get one name, and where a block is missing between others.
    """
    names = {key: canonical(key) for key in state}
    keys = {name.position: key for key, name in names.items() if isinstance(name, InBlock)}
    _require_no_gaps(keys)
    numbers = {position: i for i, position in enumerate(sorted(keys))}

    renamed: dict[str, Tensor] = {}
    for key, name in names.items():
        if isinstance(name, InBlock):
            name = f"blocks.{numbers[name.position]}.{name.name}"
        if name in renamed:
            raise CheckpointError(
                f"{key} and another tensor are both {name} in a LeViT. Expected each once. The "
                "tensors come from different networks."
            )
        tensor = state[key]
        pointwise = name.startswith("blocks.") and tensor.dim() == 4 and tensor.shape[2:] == (1, 1)
        renamed[name] = tensor.flatten(1) if pointwise else tensor
    return renamed


def _require_no_gaps(keys: Mapping[tuple[int, ...], str]) -> None:
    """Raise CheckpointError, with a name, where a block or its first half is missing.

    ``keys`` has one of the names for each position.
    """
    siblings: dict[tuple[int, ...], dict[int, str]] = {}
    for position, key in keys.items():
        for level, number in enumerate(position):
            siblings.setdefault(position[:level], {})[number] = key
    for numbers in siblings.values():
        for number, key in numbers.items():
            if number > 0 and number - 1 not in numbers:
                raise CheckpointError(
                    f"There is nothing in the place before that of {key}: a block or a part of one "
                    "is missing. Expected all of them. Save the whole model.state_dict()."
                )
