"""Does an artifact compute the same function as its original?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.choices import DTYPES, Precision
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import CheckpointError, LevitDeployError, VerificationError
from levit_deploy.model import LeViT
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing
from levit_deploy.pictures.transform import normalise
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.verification.batches import ComparedBatch, compare_batches
from levit_deploy.verification.budget import log_probabilities
from levit_deploy.verification.compare import LOOKED_INSIDE, Compared, compare_case, look_inside
from levit_deploy.verification.inputs import Case, as_taken, pixel_cases, standard_cases
from levit_deploy.verification.parting import BlockResult, compare_blocks, find_parting
from levit_deploy.verification.reference import REMEDY, Reference
from levit_deploy.verification.result import Verification

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


def measure(
    model: LeViT,
    config: LeViTConfig,
    artifact: Artifact,
    *,
    head: str = "mean",
    precision: Precision = "fp32",
    names: Mapping[str, str] | None = None,
    extra: tuple[Case, ...] = (),
    seed: int = 0,
    literal: Callable[[Images], FloatArray] | None = None,
    preprocessing: Preprocessing = IMAGENET,
    blocks: bool = False,
) -> Verification:
    """Compare an artifact with its original on the standard inputs and any extra ones.

    ``model`` is the original, float32 and in evaluation mode, with the ``head`` the artifact is
    held to; the reference is the same in float64, and the unit of error the same in ``precision``.
    For int8, ``literal`` maps images to what the file says, computed in floats, the unit of error.
    An artifact that takes bytes is given bytes, and the reference the same ones, normalised as
    ``preprocessing`` says. ``names`` are what the checkpoint calls the blocks, by canonical name;
    ``blocks`` asks for the error of each where the artifact is right, too. Returns the figures
    whatever they are; raises VerificationError where the artifact takes other images or gives other
    classes, CheckpointError where the original itself overflows, BackendError where the artifact
    cannot run.
    """
    interface = artifact.interface
    expected = interface.image_shape(config)
    if artifact.image_shape != expected:
        raise VerificationError(
            f"{artifact.path} takes images of shape {artifact.image_shape}, the checkpoint takes "
            f"{expected}. It was made from another network, or with another --image-size, which "
            "verify has to be given as well."
        )
    if interface.input == "uint8":
        standard = pixel_cases(config, preprocessing, seed)
        normalised = partial(normalise, config=config, preprocessing=preprocessing)
    else:
        standard, normalised = standard_cases(config, seed), None
    if interface.output == "probabilities":
        artifact = replace(artifact, run=_logarithms(artifact.run))
        literal = literal and _logarithms(literal)
    reference = Reference(model, precision, literal, interface.output, normalised)
    fixed = artifact.batch_size
    extra = tuple(as_taken(case, interface, config, preprocessing) for case in extra)
    cases = [compare_case(case, reference, artifact.run, fixed) for case in (*standard, *extra)]
    batches = compare_batches(cases, artifact.run, fixed, seed)
    if precision == "fp16":
        cases = [look_inside(case, artifact.values, fixed) for case in cases]
    found = Verification(
        artifact.format,
        artifact.sha256,
        precision,
        head,
        seed,
        tuple(case.result for case in cases),
        tuple(batch.result for batch in batches),
        interface=interface,
    )
    if found.passed:
        _refuse_what_proves_nothing(found)
    # in int8, every block parts from the original, by what rounding costs
    parts = not found.passed and precision != "int8"
    if not (parts or blocks):
        return found
    compared = tuple(
        replace(block, name=(names or {}).get(block.name, block.name))
        for block in _block_by_block(cases, batches, reference, artifact)
    )
    return replace(found, blocks=compared, parting=find_parting(compared) if parts else None)


def _logarithms(run: Callable[[Images], FloatArray]) -> Callable[[Images], FloatArray]:
    """What probabilities are compared by."""
    return lambda images: log_probabilities(run(images))


def _refuse_what_proves_nothing(found: Verification) -> None:
    """Raise CheckpointError where the answer to one image would do for all, within the budget.

    As in reduced precision, or where all probabilities but one are too small for float32. Logits in
    float32 that do not differ are those of a checkpoint that has one answer, and are proven.
    """
    first, probabilities = found.cases[0], found.interface.output == "probabilities"
    if found.precision not in ("fp16", "bf16") and not probabilities:
        return
    if any(case.budget.rmse < case.spread for case in found.cases):
        return
    what = "the logarithms of probabilities" if probabilities else "logits"
    remedy = REMEDY[found.precision]
    if probabilities:
        remedy = "Export logits, without --output-type probabilities."
    raise CheckpointError(
        f"In {DTYPES[found.precision]} the checkpoint's own errors are as large as what sets one "
        f"image apart from another (on {first.name} inputs an RMSE of {first.budget.rmse:.1e} is "
        f"allowed, and {what} differ by {first.spread:.1e}), so the proof proves nothing. "
        f"Real pictures may differ more: give some with --images. Or: {remedy}"
    )


def _block_by_block(
    cases: Sequence[Compared],
    batches: Sequence[ComparedBatch],
    reference: Reference,
    artifact: Artifact,
) -> list[BlockResult]:
    """How far each block is off: on the image or the batch that is most wrong, or on noise."""
    wrong = [case for case in cases if case.result.failures]
    wrong_batches = [batch for batch in batches if batch.result.failures]
    if wrong:
        worst = max(wrong, key=lambda case: case.result.excess)
        images = worst.images[worst.worst : worst.worst + 1]
    elif wrong_batches:
        images = wrong_batches[0].images
    else:
        images = cases[0].images[: artifact.batch_size or LOOKED_INSIDE]
    batch = artifact.batch_size or len(images)
    filled = images[np.arange(batch) % len(images)]
    try:
        blocks, logits = reference.blocks(images), artifact.run(filled)
        return compare_blocks(blocks, artifact.values(filled), logits, batch, reference.precision)
    except (LevitDeployError, RuntimeError, MemoryError) as error:
        log.info("could not look into the blocks: %s", error)
        return []
