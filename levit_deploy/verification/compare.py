"""Compare an artifact's outputs with the reference's, one kind of input at a time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from levit_deploy.arrays import FloatArray, Images, Run
from levit_deploy.choices import DTYPES
from levit_deploy.errors import CheckpointError, VerificationError
from levit_deploy.verification.budget import Budget, budget, rms
from levit_deploy.verification.inputs import Case
from levit_deploy.verification.reference import REMEDY, Reference

TWINS = (0, 8, 32)  # of the original, at the first look, the second, the third
BEYOND_CHANCE = 30.0  # times the budget; one of 2,000 correct artifacts was farther off

ERROR_EDGES = 10.0 ** (np.arange(-20, 9) / 4)  # of the histogram: 1e-5 to 100 times the allowed

LOOKED_INSIDE = 4  # images of each kind; every value of all has to be held at once

Values = Callable[[Images], Iterable[FloatArray]]
Parts = Mapping[str, slice]  # where each output stands in a row, by name

HEAD = "head"  # the output that tells classes apart
LOGITS: Parts = {HEAD: slice(None)}


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The figures of one kind of input, in logits or what takes their place.

    Of several outputs, each has its own figures and budget, and its name in ``name``. ``decided``
    counts the images whose float64 top-1 leads by more than twice the largest allowed error.
    ``disagreements`` counts those of them for which the artifact has another top-1, NaN or
    infinity. Both are None for features, which tell no classes apart. ``finite`` is about every
    logit, ``overflows`` about the values inside (``look_inside``). ``spread`` is the distance
    between the float64 logits of different images, as an RMS about their mean. ``histogram`` counts
    the logits by their error, in units of the largest allowed, between ERROR_EDGES. Smaller ones
    are in the first bin, larger ones and NaN in the last.
    """

    name: str
    images: int
    rmse: float
    max_error: float
    budget: Budget
    decided: int | None
    disagreements: int | None
    finite: bool
    spread: float
    overflows: bool = False
    histogram: tuple[int, ...] = ()

    @property
    def excess(self) -> float:
        """The largest error, in units of the allowed one."""
        if not self.finite:
            return float("inf")
        return max(self.rmse / self.budget.rmse, self.max_error / self.budget.max_error)

    @property
    def failures(self) -> tuple[str, ...]:
        """Each failure in words with figures; empty if there is none."""
        if not self.finite:
            return ("NaN or infinite outputs",)
        failures = []
        if self.overflows:
            failures.append("NaN or infinity inside, which this machine's runtime hides")
        if not self.rmse <= self.budget.rmse:
            failures.append(f"RMSE {self.rmse:.2e} above {self.budget.rmse:.2e}")
        if not self.max_error <= self.budget.max_error:
            failures.append(f"error {self.max_error:.2e} above {self.budget.max_error:.2e}")
        if self.disagreements:
            failures.append(f"another top-1 on {self.disagreements} of {self.decided} images")
        return tuple(failures)


@dataclass(frozen=True)
class Compared:
    """One kind of input, compared: the figures, the images, and their logits alone.

    ``results`` has the figures of each output, and ``result`` the worst of them. ``worst`` is the
    image with the largest error, in units of the allowed one.
    """

    results: tuple[CaseResult, ...]
    images: Images
    logits: FloatArray
    worst: int

    @property
    def result(self) -> CaseResult:
        """The output with the largest error, in units of the allowed one."""
        return max(self.results, key=lambda result: (bool(result.failures), result.excess))


def compare_case(
    case: Case,
    reference: Reference,
    run: Run,
    fixed_batch: int | None,
    parts: Parts = LOGITS,
    first: FloatArray | None = None,
    beyond_chance: float = BEYOND_CHANCE,
) -> Compared:
    """Compare on as few images as settle the question, each run alone, or in the fixed batch.

    ``parts`` are the outputs: each is held to a budget of its own. ``first`` is ``run_alone`` of
    the fewest images, if that was done before. Beyond ``beyond_chance`` times the budget, there is
    no second look.

    Errors vary by chance, the more so over few images, or images that are nearly the same. So a
    kind that fails by no more than chance could explain is tried again on more images, and held to
    the largest of several draws of the original's error. No more are drawn than show that it
    passes. The last look counts. If the original overflows float16, the kind is made quieter until
    it does not, if it can be.
    """
    try:
        for size, twins in zip(case.sizes, TWINS, strict=False):
            images = case.draw(size)
            rows = run_alone(run, images, fixed_batch) if first is None else first
            compared = _compare(case.name, images, rows, reference, twins, parts)
            first = None
            if not compared.result.failures or compared.result.excess > beyond_chance:
                break
    except _OriginalOverflowsError:
        if case.quieter is None or reference.precision != "fp16":
            raise
        return compare_case(
            case.quieter(), reference, run, fixed_batch, parts, beyond_chance=beyond_chance
        )
    return compared


class _OriginalOverflowsError(CheckpointError):
    """The original computes NaN or infinity in the artifact's precision."""


def _compare(
    name: str,
    images: Images,
    logits: FloatArray,
    reference: Reference,
    twins: int,
    parts: Parts,
) -> Compared:
    expected = reference.logits(images)
    _require_rows(logits, len(logits), expected.shape[1])
    allowed = _allowed(name, images, expected, reference, twins, parts, logits)
    n = len(images)
    order = np.arange(len(logits)) % n  # which image each row is
    results, shares = [], np.zeros(n)  # of each image's largest error in the allowed one
    for (output, part), budget_of_part in zip(parts.items(), allowed, strict=True):
        own, theirs = expected[:, part], logits[:, part]
        with np.errstate(invalid="ignore"):  # infinite logits are reported, not warned about
            error = theirs - own[order]  # rows, classes
        result = CaseResult(
            name=name if len(parts) == 1 else f"{name}, {output}",
            images=n,
            rmse=rms(error),
            max_error=float(np.abs(error).max()),
            budget=budget_of_part,
            decided=None,
            disagreements=None,
            finite=bool(np.isfinite(theirs).all()),
            spread=rms(own - own.mean(axis=0)),
            histogram=_histogram(error[:n], budget_of_part.max_error),
        )
        if output == HEAD:
            decided, disagreements = _top1(own, theirs, order, budget_of_part.max_error)
            result = replace(result, decided=decided, disagreements=disagreements)
        results.append(result)
        largest = np.abs(error[:n]).max(axis=1)
        largest[np.isnan(largest)] = np.inf
        shares = np.maximum(shares, largest / budget_of_part.max_error)
    return Compared(tuple(results), images, logits[:n], int(shares.argmax()))


def _top1(
    expected: npt.NDArray[np.float64],
    logits: FloatArray,
    order: npt.NDArray[np.int64],
    max_error: float,
) -> tuple[int, int]:
    """Count the images whose top-1 is decided, and those of them with another top-1.

    ``order`` tells the image of each row of ``logits``.
    """
    margins = np.ptp(np.sort(expected, axis=1)[:, -2:], axis=1)  # between the largest two
    decided = margins > 2 * max_error
    another = logits.argmax(axis=1) != expected.argmax(axis=1)[order]
    another |= ~np.isfinite(logits).all(axis=1)  # or class 0 would be the answer of NaN
    return int(decided.sum()), int(decided[np.unique(order[another])].sum())


def _allowed(
    name: str,
    images: Images,
    expected: npt.NDArray[np.float64],
    reference: Reference,
    twins: int,
    parts: Parts,
    logits: FloatArray,
) -> list[Budget]:
    """The budget of each output: of the draws the largest, until it holds the errors of ``logits``.

    More draws make no budget smaller, so they would not change the verdict.
    """
    allowed = [Budget(0.0, 0.0)] * len(parts)
    with np.errstate(invalid="ignore"):
        errors = logits - expected[np.arange(len(logits)) % len(expected)]
    for draw in reference.draws(images, twins):
        if not (np.isfinite(expected).all() and np.isfinite(draw).all()):
            raise _OriginalOverflowsError(
                f"On {name} inputs the checkpoint itself computes NaN or infinity in "
                f"{DTYPES[reference.precision]}, so there is nothing to hold an artifact to. "
                f"{REMEDY[reference.precision]}"
            )
        for i, part in enumerate(parts.values()):
            own = budget([draw[:, part]], expected[:, part], reference.precision)
            most = allowed[i]
            allowed[i] = Budget(max(own.rmse, most.rmse), max(own.max_error, most.max_error))
        if all(
            _holds(most, errors[:, part])
            for most, part in zip(allowed, parts.values(), strict=True)
        ):
            break
    return allowed


def _holds(most: Budget, error: npt.NDArray[np.float64]) -> bool:
    return rms(error) <= most.rmse and float(np.abs(error).max()) <= most.max_error


def _histogram(error: npt.NDArray[np.float64], allowed: float) -> tuple[int, ...]:
    """The numbers of errors by their size in units of the allowed one, as in ``CaseResult``."""
    least, most = ERROR_EDGES[[0, -1]]
    times = np.nan_to_num(np.abs(error) / allowed, nan=np.inf).clip(least, most)
    return tuple(np.histogram(times, ERROR_EDGES)[0].tolist())


def look_inside(compared: Compared, values: Values, fixed_batch: int | None) -> Compared:
    """Fail a kind of input on which float16 cannot hold the values inside the artifact.

    On a processor without float16, onnxruntime computes in float32 from one operator to the next.
    So numbers beyond 65504 do no harm here, but are infinite on a GPU. Read out as outputs, they
    are infinite here as well.
    """
    n = len(compared.images)
    images = compared.images[np.arange(fixed_batch or min(LOOKED_INSIDE, n)) % n]
    # every value is read, as the next answer of an isolated artifact comes after the last
    finite = [bool(np.isfinite(value).all()) for value in values(images)]
    overflows = not all(finite)
    results = tuple(replace(result, overflows=overflows) for result in compared.results)
    return replace(compared, results=results)


def run_alone(run: Run, images: Images, fixed_batch: int | None) -> FloatArray:
    """The artifact's answers to images, each alone or in the fixed batch: a row for each place.

    The last batch is filled with the first images. Raises VerificationError as ``logits_of`` does.
    """
    n, batch = len(images), fixed_batch or 1
    order = np.arange(-(-n // batch) * batch) % n
    batches = (images[order[i : i + batch]] for i in range(0, len(order), batch))
    rows = [logits_of(run, part) for part in batches]
    return np.concatenate(rows)


def logits_of(run: Run, images: Images, classes: int | None = None) -> FloatArray:
    """The artifact's logits; VerificationError if they are not one row an image."""
    logits = run(images)
    _require_rows(logits, len(images), classes or logits.shape[-1])
    return logits


def _require_rows(logits: FloatArray, n: int, classes: int) -> None:
    if logits.shape == (n, classes):
        return
    why = "It was made from another network"
    if logits.shape[:1] != (n,):  # numpy would compare one row with many
        why = "Each image must have one row"
    raise VerificationError(
        f"The artifact computes another function than the checkpoint: a batch of {n} has outputs "
        f"of shape {logits.shape}, the checkpoint's are {(n, classes)}. {why}. Do not ship it."
    )
