"""Look into an artifact, and compare every block in it with the original's."""

import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

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
from levit_deploy.verification.steps import sizes, steps

log = logging.getLogger(__name__)

MACS, FEWEST, MOST = 5e8, 2, 24  # that images may cost, and how many there are
ERRORS = (LevitDeployError, RuntimeError, MemoryError)  # which a comparison may end with
NEAR = 1e-2  # apart, relative to the largest number: the same output, computed in another order

Blocks = tuple[BlockResult, ...]


def look_into(
    original: Original,
    artifact: Artifact,
    images: Images,
    precision: Precision,
    stopped: Callable[[], bool] = lambda: False,
) -> Callable[[], Blocks]:
    """Run an artifact on images; return the comparison of each block, which may run in a thread.

    It needs the artifact no more. It gives nothing if nothing inside can be seen, and ends early if
    it is ``stopped``.
    """
    try:
        compare = _looked_into(original, artifact, images, precision, stopped)
    except ERRORS as error:
        log.info("could not look into the blocks: %s", error)
        return lambda: ()

    def compared() -> Blocks:
        try:
            results = compare()
        except ERRORS as error:
            log.info("could not compare the blocks: %s", error)
            return ()
        log.info("compared %d blocks with the original, on %d images", len(results), len(images))
        names = original.block_names
        return tuple(replace(each, name=names.get(each.name, each.name)) for each in results)

    return compared


def images_of_all_kinds(original: Original, cases: Sequence[Compared]) -> Images:
    """Some images of all kinds, a loud one first, which may leak."""
    loud = max(cases, key=lambda case: case.result.budget.max_error)
    kinds = [loud, *(case for case in cases if case is not loud)]
    in_turns = [
        case.images[i]
        for i in range(max(len(case.images) for case in kinds))
        for case in kinds
        if i < len(case.images)
    ]
    count = MACS // count_macs(original.config)
    return np.stack(in_turns[: int(min(max(count, FEWEST), MOST))])


def find_where(
    original: Original,
    artifact: Artifact,
    blocks: Blocks,
    cases: Sequence[Compared],
    batches: Sequence[ComparedBatch],
    precision: Precision,
) -> tuple[Blocks, Parting | None]:
    """The error of each block, and the first at which the artifact parts from the original.

    Every block's output has to be a value in an artifact of ours. One of another tool may lack
    some. A rounded one parts at every block, so no place is told. If no block shows why an artifact
    is wrong, the images that did are looked at.
    """
    if precision in ROUNDED or not blocks:
        return blocks, None
    outputs, every = artifact.interface.outputs(original.config), is_ours(artifact.metadata)
    parting = find_parting(blocks, outputs, every=every)
    images = _wrong_images(cases, batches)
    if parting is None and images is not None:
        blocks = look_into(original, artifact, images, precision)()
        parting = find_parting(blocks, outputs, every=every)
    return blocks, parting


def _wrong_images(cases: Sequence[Compared], batches: Sequence[ComparedBatch]) -> Images | None:
    """What showed that the artifact is wrong."""
    wrong = [case for case in cases if case.result.failures]
    if wrong:
        worst = max(wrong, key=lambda case: case.result.excess)
        return worst.images[worst.worst : worst.worst + 1]
    return next((batch.images for batch in batches if batch.result.failures), None)


def _looked_into(
    original: Original,
    artifact: Artifact,
    images: Images,
    precision: Precision,
    stopped: Callable[[], bool],
) -> Callable[[], list[BlockResult]]:
    interface, outputs = artifact.interface, {}
    blocks, normalise = steps(original.model, interface.output), original.transform.normalise
    of_bytes, given = interface.input == "uint8", (images.astype(np.float64), images)
    if of_bytes:
        given = normalise(images, dtype=np.float64), normalise(images, dtype=np.float32)
    rows, values = _run(artifact, images, sizes(blocks, np.asarray(given[1][:1], np.float32)))
    if values is None:  # as in native code
        log.info("nothing inside the artifact can be seen")
        return list
    for name, shape in interface.outputs(original.config).items():
        output, rows = np.split(rows, [math.prod(shape)], axis=1)
        block = "head" if interface.has_classes else name
        outputs[block] = _inside(output, shape, values, interface.output)
    return partial(
        compare_blocks,
        blocks,
        given,
        values,
        outputs,
        precision,
        normalised=of_bytes,
        every=is_ours(artifact.metadata),
        stopped=stopped,
    )


def _run(
    artifact: Artifact, images: Images, wanted: Collection[int]
) -> tuple[FloatArray, list[FloatArray] | None]:
    """The artifact's outputs, and its own values of the wanted sizes, with a row for each image.

    The values are None if there are none of any size.
    """
    batch, any_value = artifact.batch_size or len(images), False
    of_batch = {batch * size for size in wanted}  # the others may take much memory
    outputs, values = [], []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        filled, n = part[np.arange(batch) % len(part)], len(part)
        outputs.append(artifact.run(filled)[:n])
        seen = []
        for value in artifact.values(filled):
            any_value = True
            if value.size in of_batch:
                seen.append(value.reshape(batch, -1)[:n])
        values.append(seen)
    if not any_value:
        return np.concatenate(outputs), None
    if len(values) == 1:
        return outputs[0], values[0]
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
