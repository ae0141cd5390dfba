"""Compare the outputs of images run together with those of the same images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from levit_deploy.arrays import Images, Run
from levit_deploy.verification.budget import budget
from levit_deploy.verification.compare import (
    BEYOND_CHANCE,
    LOGITS,
    TWINS,
    Compared,
    Parts,
    logits_of,
)
from levit_deploy.verification.reference import Reference

# Of a dynamic batch, after every image was run alone. The last is a prime above those that the
# images of a kind fill: no number that was baked in by accident divides it.
BATCH_SIZES = (2, 3, 4, 5, 7, 8, 17)


@dataclass(frozen=True)
class BatchResult:
    """Whether images together have the logits they have alone.

    ``difference``, in logits, is of the image with the largest share of its ``allowed``, which is
    of the kind ``worst``, with the name of the output if there are several.
    """

    size: int
    worst: str
    difference: float
    allowed: float

    @property
    def failures(self) -> tuple[str, ...]:
        """Each failure in words with figures; empty if there is none."""
        if self.difference <= self.allowed:
            return ()
        if not np.isfinite(self.difference):
            return ("NaN or infinite outputs",)
        return (
            f"an image's outputs change by {self.difference:.2e} with the images beside it "
            f"({self.worst}), more than {self.allowed:.2e}",
        )


@dataclass(frozen=True)
class ComparedBatch:
    """Images run together: the figures, and the images."""

    result: BatchResult
    images: Images


def compare_batches(
    compared: Sequence[Compared],
    reference: Reference,
    run: Run,
    fixed_batch: int | None,
    seed: int,
    parts: Parts = LOGITS,
) -> list[ComparedBatch]:
    """Run images of all kinds together, and compare each with itself alone.

    Every place in every batch is compared, with strangers beside it. Images with a large and a
    small allowed error take turns, as a leak from the loud shows first in the quiet. A fixed batch
    cannot hold an image alone, but it can hold it in another place and company. Another batch may
    add up in another order. So an image that differs by no more than chance explains is held to
    more draws of the original's error, as in ``compare_case``.
    """
    images = np.concatenate([kind.images[:8] for kind in compared])
    alone = np.concatenate([kind.logits[:8] for kind in compared])
    kinds = [kind.results for kind in compared for _ in kind.images[:8]]
    # alone and beside others, each within the allowed error, and perhaps to either side
    limits = 2 * np.array([[output.budget.max_error for output in kind] for kind in kinds])
    quiet, loud = np.array_split(np.argsort(limits[:, 0], kind="stable"), 2)

    results, rng = [], np.random.default_rng(seed)
    for size in BATCH_SIZES if fixed_batch is None else (fixed_batch,):
        half = -(-size // 2)
        in_turn = np.stack([_drawn(loud, half, rng), _drawn(quiet, half, rng)], axis=1)
        rows = in_turn.reshape(-1)[:size]
        logits = logits_of(run, images[rows], alone.shape[1])
        with np.errstate(invalid="ignore"):
            apart = np.abs(logits - alone[rows])
        apart[np.isnan(apart)] = np.inf
        difference = np.stack([apart[:, part].max(axis=1) for part in parts.values()], axis=1)
        for twins in TWINS[1:]:
            over = np.flatnonzero((difference > limits[rows]).any(axis=1))
            if not len(over) or (difference > BEYOND_CHANCE * limits[rows]).any():
                break
            several = np.unique(rows[over])
            more = 2 * _allowed(images[several], reference, twins, parts)
            limits[several] = np.maximum(limits[several], more)
        allowed = limits[rows]  # images, outputs
        image, output = np.unravel_index((difference / allowed).argmax(), allowed.shape)
        result = BatchResult(
            size,
            kinds[rows[image]][output].name,
            float(difference[image, output]),
            float(allowed[image, output]),
        )
        results.append(ComparedBatch(result, images[rows]))
    return results


def _allowed(
    images: Images, reference: Reference, twins: int, parts: Parts
) -> npt.NDArray[np.float64]:
    """The largest error allowed for each image and output, of so many twins: (n, outputs)."""
    expected = reference.logits(images)
    draws = list(reference.draws(images, twins))
    return np.array(
        [
            [
                budget(
                    [draw[i : i + 1, part] for draw in draws],
                    expected[i : i + 1, part],
                    reference.precision,
                ).max_error
                for part in parts.values()
            ]
            for i in range(len(images))
        ]
    )


def _drawn(items: npt.NDArray[np.int64], n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw n of the items, none again before its turn."""
    return np.resize(rng.permutation(items), n)
