"""Prove that a LiteRT file in int8-dynamic is its float file with weights rounded, no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from levit_deploy.errors import VerificationError
from levit_deploy.targets.litert_file import facts, name_of, numbers_of, read_model
from levit_deploy.targets.litert_graph import rounded_weight

HALF_A_STEP = 0.5001  # the scale was itself rounded to float32, and weights are up to 127 of it
A_SCALE = 1e-6  # that a scale may be off, as a part of it


def check_rounding(path: Path, data: bytes, floats: bytes, expected: bytes) -> None:
    """Raise VerificationError if a file is not its float file with weights rounded.

    ``floats`` and ``expected`` are the checkpoint's float file and its rounded one, written again.
    Every operator, with its options, and every tensor must be where it is in ``expected``; names
    may differ. Each rounded weight is the nearest step to the float one, the largest of a channel
    is 127 steps, and any other constant is that of ``floats``.
    """
    model, plain, again = (read_model(path, each) for each in (data, floats, expected))
    try:
        _compare(model, plain, again)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # of the schema's objects
        _refuse("a part is missing, or there is one more")


def _compare(model: Any, plain: Any, again: Any) -> None:
    given, wanted = dict(facts(model)), dict(facts(again))
    for what in (*wanted, *given):
        if given.get(what) != wanted.get(what):
            _refuse(f"{what} is another, or in one of them only")
    for tensor, original in zip(
        model.subgraphs[0].tensors, plain.subgraphs[0].tensors, strict=True
    ):
        numbers, unrounded = numbers_of(model, tensor), numbers_of(plain, original)
        if (numbers is None) != (unrounded is None):
            _refuse(f"{name_of(original)} is a constant in one of them only")
        if numbers is None or unrounded is None:
            continue
        if tensor.type == original.type:
            right = numbers.tobytes() == unrounded.tobytes()
        else:
            right = _is_rounded(numbers, tensor.quantization.scale, unrounded)
        if not right:
            _refuse(f"{name_of(original)} is not the checkpoint's")


def _is_rounded(
    numbers: npt.NDArray[Any], scales: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> bool:
    """Whether a weight in int8, output channels first, is a float one in steps of ``scales``."""
    _, expected = rounded_weight(weight)
    if scales.shape != expected.shape or not np.allclose(scales, expected, rtol=A_SCALE, atol=0):
        return False
    steps = scales.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return bool((np.abs(numbers - weight / steps) <= HALF_A_STEP).all())


def _refuse(difference: str) -> NoReturn:
    raise VerificationError(
        "The artifact is not the checkpoint's float network with its weights rounded: "
        f"{difference}. It was made from another checkpoint, by another version, or changed since. "
        "Export it again."
    )
