"""Give the tensors of a family their canonical names, name by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from levit_deploy.errors import CheckpointError


@dataclass(frozen=True)
class InBlock:
    """A name in the trunk: where its block stands among the others, and the name within it.

    Positions are compared like tuples; only their order counts.
    """

    position: tuple[int, ...]
    name: str


def rename(
    state: Mapping[str, Tensor], canonical: Callable[[str], str | InBlock]
) -> dict[str, Tensor]:
    """Return the tensors under the names ``canonical`` gives, the blocks numbered in order.

    1x1 convolutions in the trunk, (out, in, 1, 1), become the linear layers they are. Raises
    CheckpointError where two tensors get one name.
    """
    names = {key: canonical(key) for key in state}
    positions = {name.position for name in names.values() if isinstance(name, InBlock)}
    numbers = {position: i for i, position in enumerate(sorted(positions))}

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
