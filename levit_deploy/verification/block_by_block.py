"""Look into an artifact, and compare every block in it with the original's."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.choices import ROUNDED, Output, Precision
from levit_deploy.cost import count_macs
from levit_deploy.errors import LevitDeployError
from levit_deploy.provenance import is_ours
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.verification.batches import ComparedBatch
from levit_deploy.verification.budget import log_probabilities
from levit_deploy.verification.compare import Compared
from levit_deploy.verification.original import Original
from levit_deploy.verification.parting import BlockResult, Parting, compare_blocks, find_parting
from levit_deploy.verification.steps import steps

log = logging.getLogger(__name__)

MACS, FEWEST, MOST = 5e8, 2, 24  # that images may cost, and how many there are
NEAR = 1e-2  # apart, relative to the largest number: the same output, computed in another order

Looked = tuple[tuple[BlockResult, ...], Parting | None]


def compare_block_by_block(
    original: Original,
    artifact: Artifact,
    cases: Sequence[Compared],
    batches: Sequence[ComparedBatch],
    precision: Precision,
) -> Looked:
    """The error of each block, and the first at which the artifact parts from the original.

    Every block's output has to be a value in an artifact of ours. One of another tool may lack
    some. A rounded one parts at every block, so no place is told. If no block shows why an artifact
    is wrong, the images that did follow. Nothing is given if nothing inside can be seen.
    """
    outputs = artifact.interface.outputs(original.config)
    results: tuple[BlockResult, ...] = ()
    try:
        for images in _images(original, cases, batches):
            results = tuple(
                replace(block, name=original.block_names.get(block.name, block.name))
                for block in _compared(original, artifact, images, precision)
            )
            if precision in ROUNDED:
                break
            parting = find_parting(results, outputs, every=is_ours(artifact.metadata))
            if parting is not None:
                return results, parting
    except (LevitDeployError, RuntimeError, MemoryError) as error:
        log.info("could not look into the blocks: %s", error)
        return (), None
    return results, None


def _images(
    original: Original, cases: Sequence[Compared], batches: Sequence[ComparedBatch]
) -> Iterator[Images]:
    """Some of all kinds, a loud one first, which may leak; then what showed that it is wrong."""
    loud = max(cases, key=lambda case: case.result.budget.max_error)
    kinds = [loud, *(case for case in cases if case is not loud)]
    in_turns = [
        case.images[i]
        for i in range(max(len(case.images) for case in kinds))
        for case in kinds
        if i < len(case.images)
    ]
    count = MACS // count_macs(original.config)
    yield np.stack(in_turns[: int(min(max(count, FEWEST), MOST))])
    wrong = [case for case in cases if case.result.failures]
    wrong_batches = [batch for batch in batches if batch.result.failures]
    if wrong:
        worst = max(wrong, key=lambda case: case.result.excess)
        yield worst.images[worst.worst : worst.worst + 1]
    elif wrong_batches:
        yield wrong_batches[0].images


def _compared(
    original: Original, artifact: Artifact, images: Images, precision: Precision
) -> list[BlockResult]:
    """The figures of each block."""
    interface, outputs = artifact.interface, {}
    rows, values = _run(artifact, images)
    if not values:  # as in native code
        log.info("nothing inside the artifact can be seen")
        return []
    for name, shape in interface.outputs(original.config).items():
        output, rows = np.split(rows, [math.prod(shape)], axis=1)
        block = "head" if interface.has_classes else name
        outputs[block] = _inside(output, shape, values, interface.output)
    of_bytes, normalise = interface.input == "uint8", original.transform.normalise
    given = (images.astype(np.float64), images)
    if of_bytes:
        given = normalise(images, dtype=np.float64), normalise(images, dtype=np.float32)
    blocks = steps(original.model, interface.output)
    results = compare_blocks(blocks, given, values, outputs, precision, normalised=of_bytes)
    log.info("compared %d blocks with the original, on %d images", len(results), len(images))
    return results


def _run(artifact: Artifact, images: Images) -> tuple[FloatArray, list[FloatArray]]:
    """The artifact's outputs, and every value of its own, with a row for each image."""
    batch = artifact.batch_size or len(images)
    outputs, values = [], []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        filled, n = part[np.arange(batch) % len(part)], len(part)
        outputs.append(artifact.run(filled)[:n])
        several = (value for value in artifact.values(filled) if value.size % batch == 0)
        values.append([value.reshape(batch, -1)[:n] for value in several])  # no constants
    return np.concatenate(outputs), [np.concatenate(same) for same in zip(*values, strict=True)]


def _inside(
    output: FloatArray, shape: tuple[int, ...], values: Sequence[FloatArray], kind: Output
) -> FloatArray:
    """An output among the values, which were computed apart, perhaps with less fused.

    It is the value nearest to the output, with its channels first, or the output if none is near.
    On a loud image, another order of sums may change all that is behind: the image with the nearest
    answer tells.
    """
    candidates = [value for value in values if value.shape == output.shape]
    if len(shape) == 3:
        channels, *sides = shape
        candidates += [
            value.reshape(-1, *sides, channels).transpose(0, 3, 1, 2).reshape(output.shape)
            for value in candidates
        ]
    if kind == "probabilities":
        candidates = [log_probabilities(value) for value in candidates]

    def distance(value: FloatArray) -> float:
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            apart = np.abs(value - output).max(1) / np.abs(output).max(1)
        return float(np.nan_to_num(apart, nan=np.inf).min())

    nearest = min(candidates, key=distance, default=output)
    return nearest if distance(nearest) <= NEAR else output
