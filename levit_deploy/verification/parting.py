"""Compare an artifact with its original block by block, and find the first at which they part.

An artifact need not name its values, and may have them in another layout. So every value in it is
compared with every block of the original. A block agrees if some value is the block's output,
within the budget of the block's own error. An output, such as the head, is compared with that
output alone, or the rest behind it would not count. An error made in one block stays in all later
ones, so the artifact parts from the original behind the last block that agrees. If that is the last
of all, a feature map before it may still be wrong.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from levit_deploy.arrays import FloatArray
from levit_deploy.choices import Precision
from levit_deploy.verification.budget import Budget, budget, rms
from levit_deploy.verification.reference import BlockOutput


@dataclass(frozen=True)
class Parting:
    """The place where an artifact parts from its original: at ``block``, behind ``after``, if any.

    ``rmse`` is the error of the value nearest to the block's, ``allowed`` the largest that passes.
    ``rmse`` is infinite if the artifact has NaN or infinity there, None if it has no value of the
    block's size.
    """

    block: str
    after: str | None
    rmse: float | None
    allowed: float

    def __str__(self) -> str:
        agrees = f"agrees up to {self.after} and " if self.after else ""
        if self.rmse is None:
            how = "and has no value of that block's size"
        elif math.isfinite(self.rmse):
            how = f"by an RMSE of {self.rmse:.2e}, with {self.allowed:.2e} allowed"
        else:
            how = "with NaN or infinity"
        return f"It {agrees}parts from the original first at {self.block}, {how}."


@dataclass(frozen=True)
class BlockResult:
    """The error of an artifact at the block ``name``.

    ``rmse`` is the error of the value nearest to the block's, or of the first that agrees, and
    ``allowed`` the largest that passes, both in the units of the block's output. ``rmse`` is
    infinite or None as in ``Parting``. ``agrees`` means within the budget, for the largest error as
    well.
    """

    name: str
    rmse: float | None
    allowed: float
    agrees: bool


@dataclass(kw_only=True)
class _Form:
    """A block's output in one of the shapes of artifacts, flattened to (n, size)."""

    expected: npt.NDArray[np.float64]
    budget: Budget
    agrees: bool = False
    nearest: float = np.inf  # RMSE of a finite value
    finite: bool = True

    @property
    def rmse(self) -> float | None:
        """As in ``Parting``."""
        if not self.finite:
            return math.inf
        return self.nearest if math.isfinite(self.nearest) else None


def compare_blocks(
    blocks: Iterable[BlockOutput],
    values: Iterable[FloatArray],
    outputs: Mapping[str, FloatArray],
    batch: int,
    precision: Precision = "fp32",
) -> list[BlockResult]:
    """Compare an artifact's values and outputs with an original's blocks.

    The values are those of ``batch`` images, the first of them the blocks', computed in
    ``precision``. ``outputs`` has the artifact's own for the block of each name, such as the head.
    """
    forms = {block.name: list(_forms(block, precision)) for block in blocks}
    inside = [form for name, several in forms.items() if name not in outputs for form in several]
    for value in values:
        for form in inside:
            _hold_against(form, value, batch)
    for name, output in outputs.items():
        for form in forms[name][:1]:  # in its own layout and no other
            _hold_against(form, output, batch)

    results = []
    for name, several in forms.items():
        best = min(several, key=lambda form: (not form.agrees, form.nearest, form.finite))
        results.append(BlockResult(name, best.rmse, best.budget.rmse, best.agrees))
    return results


def find_parting(blocks: Sequence[BlockResult], outputs: Collection[str] = ()) -> Parting | None:
    """The parting of an artifact with these results, which are in the blocks' order.

    Returns None if the last block and all ``outputs`` agree, or if there are no results.
    """
    agreeing = [i for i, block in enumerate(blocks) if block.agrees]
    parted = agreeing[-1] + 1 if agreeing else 0
    if parted == len(blocks):
        wrong = (i for i, b in enumerate(blocks) if b.name in outputs and not b.agrees)
        parted = next(wrong, parted)
    if parted == len(blocks):
        return None
    after = blocks[parted - 1].name if parted else None
    return Parting(blocks[parted].name, after, blocks[parted].rmse, blocks[parted].allowed)


def _forms(block: BlockOutput, precision: Precision) -> Iterator[_Form]:
    """As it is, with channels last or first instead, and, for tokens, averaged over them."""
    own, double = block.own, block.float64
    views = [(own, double)]
    if double.ndim == 4:
        views.append((own.transpose(0, 2, 3, 1), double.transpose(0, 2, 3, 1)))
    if double.ndim == 3:
        views.append((own.transpose(0, 2, 1), double.transpose(0, 2, 1)))
        views.append((own.mean(1), double.mean(1)))
    for original, float64 in views:
        allowed = budget([original], float64, precision)
        yield _Form(expected=float64.reshape(len(float64), -1), budget=allowed)


def _hold_against(form: _Form, value: FloatArray, batch: int) -> None:
    n, size = form.expected.shape
    if form.agrees or value.size != batch * size:
        return
    error = value.reshape(batch, size)[:n] - form.expected
    if not np.isfinite(error).all():
        form.finite = False
        return
    form.nearest = min(form.nearest, rms(error))
    form.agrees = (
        rms(error) <= form.budget.rmse and float(np.abs(error).max()) <= form.budget.max_error
    )
