"""From a file to a model: family recognised, architecture inferred, weights loaded strictly."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from levit_deploy.checkpoint import fused, official
from levit_deploy.checkpoint.files import CheckpointFile, read_file
from levit_deploy.checkpoint.state import find_state
from levit_deploy.checkpoint.strict import load_strictly
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import CheckpointError, UsageError
from levit_deploy.infer import infer_config
from levit_deploy.model import LeViT
from levit_deploy.provenance import is_ours


class Reader(Protocol):
    """A module for one family of checkpoints.

    ``matches`` says whether these are the family's keys; ``convert`` gives the tensors their
    canonical names.
    """

    FAMILY: str

    def matches(self, keys: Collection[str]) -> bool: ...

    def convert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


READERS: tuple[Reader, ...] = (official,)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    ``model`` is float32, in evaluation mode, in training form (or plain, where the file was already
    fused): the reference. ``weights`` is 'model' or 'ema'; ``head`` is what the model's logits are:
    'mean' of its one or two heads, or what was chosen when it was fused. ``assumed`` says in words
    what the file did not.
    """

    path: Path
    sha256: str
    family: str
    weights: str
    head: str
    config: LeViTConfig
    assumed: tuple[str, ...]
    model: LeViT


def read_checkpoint(
    path: str | Path,
    *,
    weights: str | None = None,
    activation: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Checkpoint:
    """Load the LeViT in a file.

    ``weights`` is 'model' or 'ema' where a training run saved both; ``activation`` and
    ``image_size`` (height, width) say what tensor shapes cannot. Raises CheckpointError,
    UnsafeInputError, or UsageError for an option that contradicts the file.
    """
    path = Path(path)
    file = read_file(path)
    if is_ours(file.metadata):
        return _fused(file, weights, activation, image_size)

    weights, state = find_state(file.contents, weights, path)
    reader = _reader(state, path)
    state = reader.convert(state)
    inferred = infer_config(state, activation=activation, image_size=image_size)
    model = LeViT(inferred.config).eval()
    load_strictly(model, state)
    return Checkpoint(
        path,
        file.sha256,
        reader.FAMILY,
        weights,
        "mean",
        inferred.config,
        (*inferred.assumed, *_stored_precision(state)),
        model,
    )


def _fused(
    file: CheckpointFile,
    weights: str | None,
    activation: str | None,
    image_size: tuple[int, int] | None,
) -> Checkpoint:
    if weights is not None:
        raise UsageError(
            f"--weights {weights} was asked for, but {file.path} was fused from one set of weights "
            "and holds no other. Leave the option out."
        )
    model, provenance = fused.restore(file.contents, file.metadata, file.path)
    config = provenance.config
    for option, asked, found in (
        ("--activation", activation, config.activation),
        ("--image-size", image_size, config.image_size),
    ):
        if asked is not None and asked != found:
            raise UsageError(
                f"{option} asks for {asked}, but {file.path} was fused with {found}. Leave the "
                "option out, or fuse the original checkpoint again."
            )
    return Checkpoint(
        file.path,
        file.sha256,
        fused.FAMILY,
        provenance.weights,
        provenance.head,
        config,
        provenance.assumed,
        model,
    )


def _reader(state: Mapping[str, Tensor], path: Path) -> Reader:
    matching = [reader for reader in READERS if reader.matches(state.keys())]
    if len(matching) == 1:
        return matching[0]
    for prefix in ("module.", "_orig_mod."):
        bare = {key.removeprefix(prefix) for key in state}
        if any(reader.matches(bare) for reader in READERS):
            raise CheckpointError(
                f"{path} holds a LeViT whose names all begin with {prefix!r}, as a wrapper left "
                "them. Save the state dict of the module inside the wrapper."
            )
    keys = ", ".join(list(state)[:4])
    raise CheckpointError(
        f"{path} holds {len(state)} tensors, such as {keys}: not the names of a LeViT this tool "
        f"knows ({', '.join(reader.FAMILY for reader in READERS)}). Expected names such as "
        "patch_embed.0.c.weight and blocks.0.m.qkv.c.weight. It may be another network's."
    )


def _stored_precision(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    kinds.discard(torch.float32)
    return tuple(
        f"weights stored as {kind} are computed with in float32" for kind in sorted(map(str, kinds))
    )
