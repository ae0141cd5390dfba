"""From a file to a model: family recognised, architecture inferred, weights loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levit_deploy.checkpoint import fused
from levit_deploy.checkpoint.block_names import block_names
from levit_deploy.checkpoint.families import official
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.families.recognise import Reader, recognise
from levit_deploy.checkpoint.files import CheckpointFile, read_file
from levit_deploy.checkpoint.folder import locate
from levit_deploy.checkpoint.infer import Inferred, infer_config
from levit_deploy.checkpoint.resize import resize
from levit_deploy.checkpoint.state import find_state
from levit_deploy.checkpoint.strict import load_strictly
from levit_deploy.choices import ACTIVATIONS
from levit_deploy.config import Grid, LeViTConfig, size_text
from levit_deploy.errors import CheckpointError, UsageError
from levit_deploy.interface import SINGLE_LABEL
from levit_deploy.model import LeViT
from levit_deploy.pictures.labels import in_order, read_labels
from levit_deploy.pictures.preprocessing import Preprocessing, told
from levit_deploy.provenance import is_ours


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    ``path`` is the weights' file, whose SHA-256 is ``sha256``; ``files`` are all that were read.
    ``model`` is float32, in evaluation mode, in training form (or plain, where the file was already
    fused): the reference. ``weights`` is 'model' or 'ema'; ``head`` is what the model's logits are:
    'mean' of its one or two heads, or what was chosen when it was fused. ``assumed`` says in words
    what the file did not. ``block_names`` are the file's names of the blocks, by canonical name.
    ``preprocessing`` turns pictures into images for it; ``labels`` name its classes, in order, and
    are empty where nothing says them; ``problem_type``, one of PROBLEM_TYPES, is what its logits
    mean.
    """

    path: Path
    files: tuple[Path, ...]
    sha256: str
    family: str
    weights: str
    head: str
    config: LeViTConfig
    assumed: tuple[str, ...]
    model: LeViT
    block_names: Mapping[str, str]
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    problem_type: str = SINGLE_LABEL


def read_checkpoint(
    path: str | Path,
    *,
    weights: str | None = None,
    activation: str | None = None,
    image_size: Grid | None = None,
    preprocessing: str | None = None,
    labels: Sequence[str] | Path | None = None,
) -> Checkpoint:
    """Load the LeViT in a file, or in a folder as timm or transformers save it.

    ``weights`` is 'model' or 'ema' where a training run saved both; ``activation`` says what
    neither the tensors nor a config do. ``image_size`` (height, width) does, too, where the size
    is open; another than the model was trained at has its attention biases interpolated.
    ``preprocessing`` (such as 'crop 0.9, mean 0.5, std 0.5') and ``labels``, names in order or the
    path of a file as --labels takes it, win over what a config says. Raises CheckpointError,
    UnsafeInputError, InputError for labels that cannot be read, or UsageError for an option that
    contradicts the file.
    """
    _require_sensible(activation, image_size)
    if isinstance(labels, str | Path):
        labels = read_labels(Path(labels))
    files, saved_config = locate(Path(path))
    file = read_file(files[0])
    if is_ours(file.metadata):
        found = _fused(file, weights, activation, image_size)
    else:
        found = _unfused(file, files, saved_config, weights, activation, image_size)
    if preprocessing is not None:
        found = replace(found, preprocessing=told(preprocessing, found.preprocessing))
    return _labelled(found, labels)


def checkpoint_of(given: Checkpoint | str | Path) -> Checkpoint:
    """A checkpoint, or the one at a path, read as ``read_checkpoint`` does when told nothing else.

    Raises what that does, and UsageError for anything else.
    """
    if isinstance(given, Checkpoint):
        return given
    if isinstance(given, str | Path):
        return read_checkpoint(given)
    raise UsageError(
        f"A {type(given).__name__} is no checkpoint. Expected what load gives, or a path."
    )


def _labelled(checkpoint: Checkpoint, given: Sequence[str] | None) -> Checkpoint:
    """The checkpoint with the labels given, else its own: one for each class, or none."""
    labels, classes = checkpoint.labels, checkpoint.config.num_classes
    if given is not None:
        try:
            labels = in_order(list(given))
        except ValueError as error:
            raise UsageError(f"The labels given have {error}. Correct them.") from error
        if len(labels) != classes:
            raise UsageError(
                f"{len(labels)} labels were given, but the network tells {classes} classes apart. "
                "Expected one for each, in the order of its logits."
            )
    if labels and len(labels) != classes:
        raise CheckpointError(
            f"{checkpoint.path} comes with {len(labels)} labels, in its config or metadata; the "
            f"tensors have {classes} classes. Expected one for each. Correct the config, give the "
            "weights file alone, or give --labels."
        )
    return replace(checkpoint, labels=labels)


def _unfused(
    file: CheckpointFile,
    files: tuple[Path, ...],
    saved_config: Mapping[str, Any],
    weights: str | None,
    activation: str | None,
    image_size: Grid | None,
) -> Checkpoint:
    weights, state = find_state(file.contents, weights, file.path)
    reader = recognise(state, file.path)
    known = reader.known(saved_config)
    if activation is not None and known.activation not in (None, activation):
        raise UsageError(
            f"--activation {activation} was asked for, but the code or the config of "
            f"{reader.FAMILY} says {known.activation}. Leave the option out."
        )
    inferred, model, names = _build(reader, state, known, activation, image_size)
    config, assumed = inferred.config, [*inferred.assumed, *_stored_precision(state)]
    if image_size is not None and image_size != config.image_size:
        model, config = resize(model, config, image_size)
        assumed.append(_resized(inferred.config, config))
    return Checkpoint(
        file.path,
        files,
        file.sha256,
        reader.FAMILY,
        weights,
        "mean",
        config,
        tuple(assumed),
        model,
        names,
        _for_this_size(known, (inferred.config.image_size, config.image_size)),
        known.labels,
        known.problem_type,
    )


def _for_this_size(known: Known, sizes: tuple[Grid, Grid]) -> Preprocessing:
    """What is known of pictures, unsupported where they come out as neither of the network's sizes.

    These are the one it was trained at and the one it is taken to.
    """
    if known.picture_size is None or known.picture_size in sizes:
        return known.preprocessing
    differs = (
        f"by the config pictures are cropped to {size_text(known.picture_size)}, and the network "
        f"takes {size_text(sizes[-1])}"
    )
    return replace(known.preprocessing, unsupported=differs, assumed=False)


def _require_sensible(activation: str | None, image_size: Grid | None) -> None:
    """Raise UsageError for what no command line would let through."""
    if activation not in (None, *ACTIVATIONS):
        raise UsageError(f"--activation {activation!r} is not one of {', '.join(ACTIVATIONS)}.")
    if image_size is not None and not (
        isinstance(image_size, tuple)
        and len(image_size) == 2
        and all(type(side) is int and side > 0 for side in image_size)
    ):
        raise UsageError(
            f"--image-size {image_size!r} is no size. Expected (height, width) in pixels."
        )


def _build(
    reader: Reader,
    state: Mapping[str, Tensor],
    known: Known,
    activation: str | None,
    image_size: Grid | None,
) -> tuple[Inferred, LeViT, dict[str, str]]:
    """The architecture, the model with the weights in it, and the file's names of its blocks."""
    try:
        converted = reader.convert(state)
        inferred = infer_config(converted, known, activation=activation, image_size=image_size)
        model = load_strictly(inferred.config, converted)
    except CheckpointError as error:
        if reader is official:
            raise
        raise CheckpointError(
            f"{error} (The file is in the layout of {reader.FAMILY}; names beginning with "
            "patch_embed, blocks and head are the official code's for the same tensors.)"
        ) from error
    return inferred, model, block_names(state, converted)


def _resized(trained: LeViTConfig, config: LeViTConfig) -> str:
    """Say in words what another image size has done."""
    wanted, was = size_text(config.image_size), size_text(trained.image_size)
    same_grid = config.resolutions == trained.resolutions
    how = "" if same_grid else ", with interpolated attention biases"
    return (
        f"images of {wanted} instead of the {was} it was trained at{how}: re-measure the accuracy"
    )


def _fused(
    file: CheckpointFile,
    weights: str | None,
    activation: str | None,
    image_size: Grid | None,
) -> Checkpoint:
    if weights is not None:
        raise UsageError(
            f"--weights {weights} was asked for, but {file.path} was fused from one set of weights "
            "and holds no other. Leave the option out."
        )
    model, provenance = fused.restore(file.contents, file.metadata, file.path)
    config = provenance.config
    contradictions = []
    if activation not in (None, config.activation):
        contradictions.append((f"--activation {activation}", config.activation))
    if image_size is not None and image_size != config.image_size:
        asked, found = size_text(image_size), size_text(config.image_size)
        contradictions.append((f"--image-size {asked}", found))
    for asked, found in contradictions:
        raise UsageError(
            f"{asked} was asked for, but {file.path} was fused with {found}. Leave the option out, "
            "or fuse the original checkpoint again."
        )
    return Checkpoint(
        file.path,
        (file.path,),
        file.sha256,
        fused.FAMILY,
        provenance.weights,
        provenance.head,
        config,
        provenance.assumed,
        model,
        block_names={},
        preprocessing=provenance.preprocessing,
        labels=provenance.labels,
        problem_type=provenance.problem_type,
    )


def _stored_precision(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    kinds.discard(torch.float32)
    return tuple(
        f"weights stored as {kind} are computed with in float32" for kind in sorted(map(str, kinds))
    )
