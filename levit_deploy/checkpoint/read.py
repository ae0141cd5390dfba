"""Read a checkpoint: recognise its family, infer the architecture, load the weights strictly."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from levit_deploy.checkpoint import fused
from levit_deploy.checkpoint.at_hand import Source, at_hand
from levit_deploy.checkpoint.author import (
    AuthorsLogits,
    Checked,
    authors_logits,
    require_authors_function,
)
from levit_deploy.checkpoint.block_names import block_names
from levit_deploy.checkpoint.built import with_modules
from levit_deploy.checkpoint.elsewhere import INDEX
from levit_deploy.checkpoint.families import official, timm
from levit_deploy.checkpoint.families.known import Known
from levit_deploy.checkpoint.families.recognise import Reader, recognise
from levit_deploy.checkpoint.files import CheckpointFile, read_file
from levit_deploy.checkpoint.folder import locate
from levit_deploy.checkpoint.given import Given, Selection, release
from levit_deploy.checkpoint.head_forms import with_heads_in_form
from levit_deploy.checkpoint.infer import infer_config
from levit_deploy.checkpoint.other_tensors import own_tensors
from levit_deploy.checkpoint.pickles.modules import below
from levit_deploy.checkpoint.recorded import with_record
from levit_deploy.checkpoint.resize import resize
from levit_deploy.checkpoint.shards import read_shards
from levit_deploy.checkpoint.state import find_weights
from levit_deploy.checkpoint.strict import load_strictly
from levit_deploy.checkpoint.training_record import find_record
from levit_deploy.choices import Activation
from levit_deploy.config import Grid, LeViTConfig, size_text
from levit_deploy.errors import CheckpointError, UsageError
from levit_deploy.interface import SINGLE_LABEL
from levit_deploy.model import LeViT
from levit_deploy.pictures.labels import in_order, read_labels
from levit_deploy.pictures.preprocessing import Preprocessing, told
from levit_deploy.pictures.transform import Transform
from levit_deploy.provenance import is_ours
from levit_deploy.text import counted

log = logging.getLogger(__name__)

_CANONICAL = re.compile(r"\b(patch_embed|blocks|head|head_dist)\.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        path: The weights' file, whose SHA-256 is ``sha256``, or the index of their shards. Of a
            module or a dict at hand it is 'the' and the type, and ``sha256`` is of its tensors.
        files: Every file that was read.
        family: The code that saved it, such as 'timm'.
        weights: 'model', 'ema', or the place in the file that was chosen.
        prefix: The part of every name before the family's own.
        head: The logits of ``model``: 'mean' of its heads, or the head kept when it was fused.
            'none' if it has no head.
        config: The architecture, at the image size asked for.
        assumed: The assumptions made, in words.
        proven_if: The decisive ones: with another fact, the tensors are another function.
        stated: The facts that the file states of itself, in words.
        checked: The figures of the author's logits, if the network computes them. Then the verdict
            of a proof rests on no assumption.
        reading: ``checked`` in words, or those of the checkpoint that a fused file was made from.
            Empty if nothing was checked.
        passed_over: The tensors left out, with the reasons, in words.
        model: The reference, in float32 and evaluation mode. A fused file gives plain layers, any
            other the training form.
        block_names: The file's own name of each block, by canonical name.
        preprocessing: How a picture becomes an input.
        labels: The names of the classes in order, or none.
        problem_type: The meaning of the logits, one of PROBLEM_TYPES.
    """

    path: Path
    files: tuple[Path, ...]
    sha256: str
    family: str
    weights: str
    prefix: str = ""
    head: str
    config: LeViTConfig
    assumed: tuple[str, ...]
    proven_if: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    checked: Checked | None = None
    reading: str = ""
    passed_over: tuple[str, ...] = ()
    model: LeViT
    block_names: Mapping[str, str]
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    problem_type: str = SINGLE_LABEL

    @property
    def transform(self) -> Transform:
        """How a picture becomes an input."""
        return Transform(self.config.image_size, self.config.in_channels, self.preprocessing)


def read_checkpoint(
    source: Source,
    *,
    weights: str | None = None,
    ignore: Sequence[str] = (),
    head_name: str | None = None,
    activation: Activation | None = None,
    trained_with: str | None = None,
    image_size: Grid | None = None,
    trained_size: Grid | None = None,
    eps: float | None = None,
    expect: str | Path | Mapping[str, Any] | None = None,
    preprocessing: str | None = None,
    labels: Sequence[str] | Path | None = None,
) -> Checkpoint:
    """Load the LeViT in a file, in a folder as timm or transformers save it, or at hand.

    Args:
        source: The path of the file or the folder, or a torch module, or a dict such as its
            ``state_dict()``. These are left as they are.
        weights: The set of weights if the file has several: 'model' and 'ema', or their places.
        ignore: Patterns for the names of tensors to leave out, as in ``fnmatch``.
        head_name: The module that is the head, if the network's own is not.
        activation: The activation, if the file does not state it or states it wrongly.
        trained_with: The release of the library that trained it, such as 'vit-pytorch==0.17.0', if
            releases compute different functions of the same tensors.
        image_size: (height, width) in pixels. If it fits the attention biases, it is the size
            trained at. For any other size, they are interpolated.
        trained_size: (height, width) that it was trained at, if ``image_size`` is another.
        eps: That of BatchNorm and LayerNorm, if it is not 1e-5.
        expect: An .npz, or a dict of arrays, with ``input``, float32 (n, channels, height, width),
            and ``logits``, (n, classes), that the author's code computed for it in evaluation mode.
            A reading that computes others is refused.
        preprocessing: Preprocessing in words, such as 'crop 0.9, mean 0.5, std 0.5'. It overrides
            the config.
        labels: The names of the classes in order, or the path of a file with them. They override
            the config.

    Raises:
        CheckpointError: The file is not exactly one LeViT, its config contradicts its tensors, or
            it does not compute the logits of ``expect``.
        UnsafeInputError: Reading the file could run code.
        InputError: The file of labels, or of logits, cannot be read.
        UsageError: An option is malformed, or contradicts the file.
    """
    given = Given(
        activation=activation,
        trained_with=release(trained_with),
        image_size=image_size,
        trained_size=trained_size,
        eps=eps,
    )
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    selection = Selection(weights=weights, ignore=patterns, head_name=head_name)
    if isinstance(labels, str | Path):
        labels = read_labels(Path(labels))
    expected = None if expect is None else authors_logits(expect)
    if isinstance(source, str | Path):
        files, saved_config = locate(Path(source))
        is_index = files[0].name.endswith(INDEX)
        file = read_shards(files[0]) if is_index else read_file(files[0])
    else:
        files = ()
        file, saved_config = at_hand(source)
    if is_ours(file.metadata):
        checkpoint = _read_fused(file, selection, given, expected)
    else:
        checkpoint = _read_state_dict(file, files, saved_config, selection, given, expected)
    size = sum(read.stat().st_size for read in checkpoint.files)
    log.info(
        "read %s: %s bytes, %s, %s",
        checkpoint.path,
        f"{size:,}",
        checkpoint.family,
        checkpoint.config.variant,
    )
    if preprocessing is not None:
        stated = told(preprocessing, checkpoint.preprocessing)
        checkpoint = replace(checkpoint, preprocessing=stated)
    return _labelled(checkpoint, labels)


def checkpoint_of(given: Checkpoint | Source) -> Checkpoint:
    """Return a checkpoint as it is, or read one without options.

    Raises the errors of ``read_checkpoint``.
    """
    return given if isinstance(given, Checkpoint) else read_checkpoint(given)


def _read_fused(
    file: CheckpointFile,
    selection: Selection,
    given: Given,
    expected: AuthorsLogits | None,
) -> Checkpoint:
    if selection.options:
        raise UsageError(
            f"{' and '.join(selection.options)} was given, but {file.path} was fused from one set "
            "of weights. Leave that out."
        )
    model, provenance = fused.restore(file.contents, file.metadata, file.path)
    config = provenance.config
    for option, value, fused_with in (
        ("--activation", given.activation, config.activation),
        ("--eps", given.eps, config.bn_eps),
        *(
            (option, size and size_text(size), size_text(config.image_size))
            for option, size in (
                ("--image-size", given.image_size),
                ("--trained-size", given.trained_size),
            )
        ),
        ("--trained-with", given.trained_with, "all that it needs"),
    ):
        if value not in (None, fused_with):
            raise UsageError(
                f"{option} {value} was given, but {file.path} was fused with {fused_with}. Leave "
                "the option out, or fuse the original checkpoint again."
            )
    checked = None
    if expected is not None:
        checked = require_authors_function(model, config, expected, family=fused.FAMILY)
    return Checkpoint(
        path=file.path,
        files=(file.path,),
        sha256=file.sha256,
        family=fused.FAMILY,
        weights=provenance.weights,
        head=provenance.head,
        config=config,
        assumed=provenance.assumed,
        proven_if=() if checked else provenance.proven_if,
        checked=checked,
        reading=str(checked) if checked else provenance.reading,
        passed_over=provenance.passed_over,
        model=model,
        block_names={},
        preprocessing=provenance.preprocessing,
        labels=provenance.labels,
        problem_type=provenance.problem_type,
    )


def _read_state_dict(
    file: CheckpointFile,
    files: tuple[Path, ...],
    saved_config: Mapping[str, Any],
    selection: Selection,
    given: Given,
    expected: AuthorsLogits | None,
) -> Checkpoint:
    if expected is not None and given.image_size is None and given.trained_size is None:
        given = replace(given, image_size=expected.image_size)
    found = find_weights(file.contents, selection.weights, file.path)
    reader = recognise(found.weights.state, file.path)
    own = own_tensors(found, reader, selection, file.path)
    _require_family(given, reader)
    modules = below(file.modules, found.weights.prefix_in_file)
    known = with_modules(reader.known(saved_config, given.trained_with), modules)
    known = with_record(
        known, find_record(file.contents, file.path, beside=bool(files)), reader.FAMILY
    )
    try:
        converted, of_head = with_heads_in_form(reader.convert(own.state), own.head, selection)
        inferred = infer_config(converted, known, given)
        model = load_strictly(inferred.config, converted)
    except CheckpointError as error:
        if reader is official or not _CANONICAL.search(str(error)):
            raise
        raise CheckpointError(
            f"{error} (The file is in the layout of {reader.FAMILY}. Names beginning with "
            "patch_embed, blocks and head are the official code's for the same tensors.)"
        ) from error
    config = inferred.config
    assumptions = (*inferred.assumed, *of_head)
    assumed = [*map(str, assumptions), *_stored_precision(converted)]
    if given.image_size not in (None, config.image_size):
        model, config = resize(model, config, given.image_size)
        assumed.append(_resizing(inferred.config, config))
    checked = None
    if expected is not None:
        checked = require_authors_function(
            model, config, expected, family=reader.FAMILY, state=converted
        )
    proven_if = tuple(each.fact for each in assumptions if each.decisive)
    return Checkpoint(
        path=file.path,
        files=files,
        sha256=file.sha256,
        family=reader.FAMILY,
        weights=found.name,
        prefix=found.weights.prefix_in_file,
        head="none" if config.headless else "mean",
        config=config,
        assumed=tuple(assumed),
        proven_if=() if checked else proven_if,
        stated=known.told,
        checked=checked,
        reading=str(checked or ""),
        passed_over=own.passed_over,
        model=model,
        block_names=block_names(own.names_in_file, converted),
        preprocessing=_preprocessing(known, inferred.config.image_size, config.image_size),
        labels=() if config.headless else known.labels,
        problem_type=known.problem_type,
    )


def _require_family(given: Given, reader: Reader) -> None:
    """Raise UsageError if the tensors have other names than the library trained with gives."""
    trained_with = given.trained_with
    if trained_with is not None and trained_with.library == timm.FAMILY:
        names = official if trained_with.version < timm.FIRST_WITH_OWN_NAMES else timm
        if reader in (official, timm) and reader is not names:
            raise UsageError(
                f"--trained-with {trained_with} was given, but the tensors have the names of "
                f"{reader.FAMILY}, and this release saves those of {names.FAMILY}. Correct it."
            )
    libraries = {"official", "timm"} if reader is official else {reader.FAMILY}
    if trained_with is not None and trained_with.library not in libraries:
        raise UsageError(
            f"--trained-with {trained_with} was given, but the tensors have the names of "
            f"{reader.FAMILY}. Give a release of that, or leave the option out."
        )


def _stored_precision(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    kinds.discard(torch.float32)
    return tuple(
        f"weights stored as {kind} are computed with in float32" for kind in sorted(map(str, kinds))
    )


def _resizing(trained: LeViTConfig, config: LeViTConfig) -> str:
    wanted, was = size_text(config.image_size), size_text(trained.image_size)
    same_grid = config.resolutions == trained.resolutions
    how = "" if same_grid else ", with interpolated attention biases"
    return (
        f"images of {wanted} instead of the {was} it was trained at{how}: re-measure the accuracy"
    )


def _preprocessing(known: Known, trained: Grid, wanted: Grid) -> Preprocessing:
    """The known preprocessing, unsupported if its pictures fit neither image size.

    ``trained`` is the size the network was trained at, ``wanted`` the size it takes now.
    """
    if known.picture_size in (None, trained, wanted):
        return known.preprocessing
    differs = (
        f"the config makes pictures of {size_text(known.picture_size)}, but the network takes "
        f"{size_text(wanted)}"
    )
    return replace(known.preprocessing, unsupported=differs, assumed=False)


def _labelled(checkpoint: Checkpoint, given: Sequence[str] | None) -> Checkpoint:
    """The checkpoint with the given labels, else its own: one for each class, or none."""
    labels, classes = checkpoint.labels, checkpoint.config.num_classes
    if given is not None:
        if checkpoint.config.headless:
            raise UsageError(
                f"Labels were given, but {checkpoint.path} is a network without a head. It tells "
                "no classes apart. Leave the labels out."
            )
        try:
            labels = in_order(list(given))
        except ValueError as error:
            raise UsageError(f"The labels given have {error}. Correct them.") from error
        if len(labels) != classes:
            raise UsageError(
                f"{len(labels)} labels were given, but the network tells {classes} classes apart. "
                "Expected one for each class, in the order of the logits."
            )
    if labels and len(labels) != classes:
        raise CheckpointError(
            f"{checkpoint.path} has {counted(len(labels), 'label')} in its config or metadata, but "
            f"{classes} classes in its tensors. Expected one for each class. Correct the config, "
            "give the weights file alone, or give --labels."
        )
    return replace(checkpoint, labels=labels)
