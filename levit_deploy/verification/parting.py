"""Compare an artifact with its original block by block, each on the input that it really gets.

The artifact's own value behind one block is given to the next block of the original, in float64 and
in the artifact's precision. So only what that one block does counts, and nothing behind it can
drown an error. This is teacher forcing, with the artifact as the teacher.

An artifact need not name its values, and may have them in another layout. So every value in it is
held against the block's output. A block agrees if some value is that output, within the budget of
the block's own error, image by image. An output, such as the head, is compared with that output
alone. A block whose output is no value of the artifact counts as one with the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from levit_deploy.arrays import FloatArray
from levit_deploy.choices import DTYPES, EPS, Precision
from levit_deploy.interface import INPUT_NAME
from levit_deploy.passes.replace import copied
from levit_deploy.verification.budget import (
    LEAST,
    MAX_FACTOR,
    MAX_FLOOR_ULPS,
    RMSE_FACTOR,
    RMSE_FLOOR_ULPS,
)
from levit_deploy.verification.compare import BEYOND_CHANCE, TWINS
from levit_deploy.verification.reference import twin_of
from levit_deploy.verification.steps import Step

RMSE_ALONE, MAX_ALONE = 2.0, 4.0  # times the budget of a whole network
SAMPLED, CLOSEST = 256, 3  # numbers that tell values apart roughly, and values looked at closely

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Parting:
    """The place where an artifact parts from its original: at ``block``, behind ``after``, if any.

    ``rmse`` is the error of the value nearest to the block's, ``allowed`` the largest that passes.
    ``rmse`` is infinite if the artifact has NaN or infinity there, None if it has no value of the
    block's size. ``share`` is the error in units of the allowed, be it the RMSE or the largest.
    """

    block: str
    after: str | None
    rmse: float | None
    allowed: float
    share: float

    def __str__(self) -> str:
        agrees = f"agrees up to {self.after} and " if self.after else ""
        if self.rmse is None:
            how = "and has no value of that block's size"
        elif self.rmse <= self.allowed:
            how = f"by {self.share:.1f} times the largest error allowed"
        elif math.isfinite(self.rmse):
            how = f"by an RMSE of {self.rmse:.2e}, with {self.allowed:.2e} allowed"
        else:
            how = "with NaN or infinity"
        return f"It {agrees}parts from the original first at {self.block}, {how}."


@dataclass(frozen=True)
class BlockResult:
    """The error of an artifact at the block ``name``, on the input that the block gets.

    ``rmse`` is the error of the value nearest to the block's, or of the first that agrees, and
    ``allowed`` the largest that passes, both in the units of the block's output. Each image counts
    in units of its own budget, so that a quiet one is not drowned. ``share`` is the share of the
    error allowed, of RMSE or largest. ``rmse`` is infinite or None as in ``Parting``, and ``share``
    is infinite then.
    """

    name: str
    rmse: float | None
    allowed: float
    share: float

    @property
    def agrees(self) -> bool:
        """Whether RMSE and largest error are within the budget."""
        return self.share <= 1


@dataclass(frozen=True)
class _Form:
    """A shape that artifacts have a block's output in: the way there, and the way back."""

    there: Callable[[Numbers], Numbers]
    back: Callable[[Numbers, Sequence[int]], Numbers]  # from (n, numbers), to the original's shape


@dataclass(frozen=True)
class _Allowed:
    """The errors that each image may have at a block, (n,): the RMSE and the largest."""

    rmse: Numbers
    max_error: Numbers


@dataclass(frozen=True)
class _Match:
    """A value of the artifact, beside a block's output in a form."""

    value: Numbers
    form: _Form
    rms: Numbers  # of the error in each image
    largest: Numbers
    allowed: _Allowed

    @classmethod
    def of(cls, value: Numbers, form: _Form, expected: Numbers, allowed: _Allowed) -> _Match:
        """The errors of a value."""
        with np.errstate(invalid="ignore", over="ignore"):
            error = value - expected
            return cls(value, form, _rms(error), np.abs(error).max(1), allowed)

    @property
    def rmse_share(self) -> float:
        """The RMSE over all images, each in units of its own allowed one."""
        return float(np.sqrt(np.mean(np.square(self.rms / self.allowed.rmse))))

    @property
    def share(self) -> float:
        """The larger share of RMSE and largest error; infinite for NaN."""
        largest = float((self.largest / self.allowed.max_error).max())
        share = max(self.rmse_share, largest)
        return share if math.isfinite(largest) else math.inf

    def result(self, name: str) -> BlockResult:
        """The figures over all images."""
        if not math.isfinite(self.share):
            return BlockResult(name, math.inf, float(self.allowed.rmse.max()), math.inf)
        rmse = float(np.sqrt(np.mean(np.square(self.rms))))
        allowed = rmse / self.rmse_share if rmse else float(self.allowed.rmse.max())
        return BlockResult(name, rmse, allowed, self.share)


@dataclass(frozen=True)
class _Run:
    """The original's blocks from a value of the artifact on, in float64 and in a precision."""

    value: Tensor
    double: Tensor
    own: Tensor
    precision: Precision
    blocks: tuple[nn.Module, ...] = ()

    @classmethod
    def begun(cls, value: Numbers, precision: Precision) -> _Run:
        """Begin with a value, which both take."""
        double = torch.from_numpy(np.ascontiguousarray(value, np.float64))
        return cls(double, double, double.to(_dtype(precision)), precision)

    def through(self, block: nn.Module) -> _Run:
        """Run one block more."""
        dtype = _dtype(self.precision)
        double = _output(_cast(block, torch.float64), self.double)
        own = _output(_cast(block, dtype), self.own.to(dtype))
        return replace(self, double=double, own=own, blocks=(*self.blocks, block))

    def twin(self, seed: int) -> Tensor:
        """What takes the place of ``own`` in a twin, as in ``Reference.draws``."""
        double = twin_of(
            _cast(nn.Sequential(*self.blocks), torch.float64), seed, EPS[self.precision]
        )
        dtype = _dtype(self.precision)
        own = _output(_cast(double, dtype), self.value.to(dtype))
        return own if self.precision == "fp32" else own - _output(double, self.value) + self.double


def compare_blocks(
    steps: Sequence[Step],
    given: tuple[Numbers, Numbers],
    values: Sequence[FloatArray],
    outputs: Mapping[str, FloatArray],
    precision: Precision = "fp32",
    *,
    normalised: bool = False,
    every: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> list[BlockResult]:
    """Compare an artifact's values and outputs with the blocks of an original.

    ``given`` are the images of the network, in float64 and as its author has them. The values are
    the artifact's, computed in ``precision``, with a row for each image. ``outputs`` has its own
    for the block of each name, such as the head. The images are the first block if the artifact has
    ``normalised`` them, unless only the next one shows it. If ``every`` block has to agree, those
    behind the first that does not are looked at once only. The results end early if it is
    ``stopped`` from another thread.
    """
    results: list[BlockResult] = []
    run, again = _Run.begun(given[0], precision), True
    if normalised:
        run = replace(run, own=torch.from_numpy(given[1]))
        steps = [Step(INPUT_NAME, nn.Identity()), *steps]
    for place, step in enumerate(steps):
        if stopped():
            return results
        after = run if step.name == INPUT_NAME else run.through(step.module)
        if step.name in outputs:  # in its own layout and no other, or all behind it would not count
            match = _best(after, (_AS_IT_IS,), [outputs[step.name]], again=again, stopped=stopped)
        else:
            forms = _forms(after.double.dim(), last_of_trunk=place == len(steps) - 2)
            match = _best(after, forms, values, again=again, stopped=stopped)
        if match is None:
            allowed = _allowed(after.own, after.double, _AS_IT_IS, precision)
            results.append(BlockResult(step.name, None, float(allowed.rmse.max()), math.inf))
        else:
            results.append(match.result(step.name))
        again = again and (results[-1].agrees or not every or step.name == INPUT_NAME)
        if not step.passed_on:
            continue
        run = after
        if match is not None and match.share <= 1:
            run = _Run.begun(match.form.back(match.value, after.double.shape), precision)
    # the float form of int8 divides by the deviation in the first convolution, so they are one
    together = normalised and not results[0].agrees and results[1].agrees
    return results[1:] if together else results


def find_parting(
    blocks: Sequence[BlockResult], outputs: Collection[str] = (), *, every: bool = False
) -> Parting | None:
    """The parting of an artifact with these results, which are in the blocks' order.

    It is behind the last block that agrees, as some may not be among the artifact's values. If
    ``every`` one must be, it is the first that does not agree. Returns None if the last block and
    all ``outputs`` agree, or if there are no results.
    """
    agreeing = [i for i, block in enumerate(blocks) if block.agrees]
    parted = agreeing[-1] + 1 if agreeing else 0
    wrong = (
        i
        for i, block in enumerate(blocks)
        if not block.agrees and (every or i >= parted or block.name in outputs)
    )
    first = next(wrong, None)
    if first is None:
        return None
    after = blocks[first - 1].name if first else None
    block = blocks[first]
    return Parting(block.name, after, block.rmse, block.allowed, block.share)


def _best(
    run: _Run,
    forms: Sequence[_Form],
    values: Sequence[FloatArray],
    *,
    again: bool,
    stopped: Callable[[], bool],
) -> _Match | None:
    """The value with the least share of its budget; None if there is none of the size.

    If it is to be looked at ``again``, a value that misses its budget by no more than chance
    explains is held to more draws.
    """
    matches = []
    for form in forms:
        expected = _rows(form.there(_numbers(run.double)))
        allowed = _allowed(run.own, run.double, form, run.precision)
        nearest = _nearest(values, expected)
        matches += [_Match.of(value, form, expected, allowed) for value in nearest]
    best = min(matches, key=lambda match: match.share, default=None)
    if best is not None and best.share > BEYOND_CHANCE:  # then NaN or infinity is the reason
        best = max(matches, key=lambda match: (math.isinf(match.share), -match.share))
    if best is None or not again:
        return best
    for seed in range(TWINS[-1]):  # no more than show that it agrees
        if not 1 < best.share <= BEYOND_CHANCE or stopped():
            break
        draw, most = _allowed(run.twin(seed), run.double, best.form, run.precision), best.allowed
        allowed = _Allowed(
            np.maximum(most.rmse, draw.rmse), np.maximum(most.max_error, draw.max_error)
        )
        best = replace(best, allowed=allowed)
    return best


def _nearest(values: Sequence[FloatArray], expected: Numbers) -> list[FloatArray]:
    """Of the values of a size, the few that look most like it, on SAMPLED numbers of each image."""
    alike = [value for value in values if value.shape == expected.shape]
    step = -(-expected.shape[1] // SAMPLED)
    sample = expected[:, ::step]

    def distance(value: FloatArray) -> float:
        with np.errstate(invalid="ignore", over="ignore"):
            apart = float(np.abs(value[:, ::step] - sample).mean())
        return apart if math.isfinite(apart) else math.inf

    broken = [value for value in alike if not np.isfinite(value).all()]
    return sorted(alike, key=distance)[:CLOSEST] + broken[:1]


def _allowed(own: Tensor, double: Tensor, form: _Form, precision: Precision) -> _Allowed:
    """What each image may err by, from the original's own error (``budget``).

    Alone, a block may show all that another order of its sums costs. A convolution that adds its
    terms to a large bias, one by one, had five times the original's largest error.
    """
    expected = _rows(form.there(_numbers(double)))
    error = _rows(form.there(_numbers(own))) - expected
    ulp = np.abs(expected).max(1) * EPS[precision]
    return _Allowed(
        _at_least(RMSE_ALONE * RMSE_FACTOR * _rms(error), RMSE_ALONE * RMSE_FLOOR_ULPS * ulp),
        _at_least(MAX_ALONE * MAX_FACTOR * np.abs(error).max(1), MAX_ALONE * MAX_FLOOR_ULPS * ulp),
    )


_AS_IT_IS = _Form(lambda own: own, lambda rows, shape: rows.reshape(shape))
_CHANNELS_LAST = _Form(
    lambda own: own.transpose(0, 2, 3, 1),
    lambda rows, s: rows.reshape(s[0], s[2], s[3], s[1]).transpose(0, 3, 1, 2),
)
_CHANNELS_FIRST = _Form(
    lambda own: own.transpose(0, 2, 1),
    lambda rows, s: rows.reshape(s[0], s[2], s[1]).transpose(0, 2, 1),
)
_POOLED = _Form(lambda own: own.mean(1), lambda rows, _shape: rows)


def _forms(dims: int, *, last_of_trunk: bool) -> tuple[_Form, ...]:
    """As it is, with channels last or first instead, and averaged over the tokens."""
    if dims == 4:
        return _AS_IT_IS, _CHANNELS_LAST
    if dims == 3:
        return (_AS_IT_IS, _CHANNELS_FIRST, *((_POOLED,) if last_of_trunk else ()))
    return (_AS_IT_IS,)


def _dtype(precision: Precision) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, DTYPES[precision])
    return dtype


def _cast(block: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A block in another precision, which leaves the original as it is."""
    of = next(block.parameters(), None)
    return block if of is None or of.dtype == dtype else copied(block).to(dtype)


def _output(block: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        out: Tensor = block(x)
    return out


def _numbers(tensor: Tensor) -> Numbers:
    """As float64 or float32; numpy has no bfloat16."""
    return np.asarray((tensor if tensor.dtype == torch.float64 else tensor.float()).numpy())


def _at_least(limit: Numbers, floor: Numbers) -> Numbers:
    return np.maximum(np.maximum(limit, floor), LEAST)


def _rows(numbers: Numbers) -> Numbers:
    """Flattened, a row for each image."""
    return numbers.reshape(len(numbers), -1)


def _rms(error: Numbers) -> Numbers:
    """The root of the mean square of each row."""
    root: Numbers = np.sqrt(np.square(error).mean(1))
    return root
