"""Give the tensors of a family their canonical names, name by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from levit_deploy.errors import CheckpointError


@dataclass(frozen=True)
class InBlock:
    """A name in the trunk: the position of its block, and the name within the block.

    Positions are compared like tuples. At each level they count from 0 without a gap, or from -1
    if something comes before the first.
    """

    position: tuple[int, ...]
    name: str


def rename(
    state: Mapping[str, Tensor], canonical: Callable[[str], str | InBlock]
) -> dict[str, Tensor]:
    """Return the tensors under the names ``canonical`` gives, with the blocks numbered in order.

    1x1 convolutions in the trunk, (out, in, 1, 1), become linear layers. Raises CheckpointError if
    two tensors get one name, or if a block is missing between others.
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
                f"{key} and another tensor are both {name} in a LeViT. Expected each name once. "
                "The tensors come from different networks. Save the state dict of one alone."
            )
        tensor = state[key]
        pointwise = name.startswith("blocks.") and tensor.dim() == 4 and tensor.shape[2:] == (1, 1)
        renamed[name] = tensor.flatten(1) if pointwise else tensor
    return renamed


def _require_no_gaps(keys: Mapping[tuple[int, ...], str]) -> None:
    """Raise CheckpointError, with a name, if a block or its first half is missing.

    ``keys`` has one name for each position.
    """
    siblings: dict[tuple[int, ...], dict[int, str]] = {}
    for position, key in keys.items():
        for level, number in enumerate(position):
            siblings.setdefault(position[:level], {})[number] = key
    for numbers in siblings.values():
        for number, key in numbers.items():
            if number > 0 and number - 1 not in numbers:
                raise CheckpointError(
                    f"A block, or a part of one, is missing before {key}. Expected every block. "
                    "Save the whole model.state_dict()."
                )
