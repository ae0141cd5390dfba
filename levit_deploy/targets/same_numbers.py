"""Compare the numbers of a file with those of a network that was exported again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]


def are_between(numbers: Numbers, least: Numbers, most: Numbers) -> bool:
    """Whether every number lies between two others, and whole numbers are the same."""
    if (numbers.dtype, numbers.shape) != (least.dtype, least.shape):
        return False
    if numbers.tobytes() == least.tobytes():
        return True
    if not np.issubdtype(numbers.dtype, np.floating):
        return False
    above = np.minimum(least, most) <= numbers
    return bool(np.all(above & (numbers <= np.maximum(least, most))))


def difference_of_tensors(
    tensors: Mapping[str, Numbers], least: Mapping[str, Numbers], most: Mapping[str, Numbers]
) -> str:
    """Return the first difference of tensors by name, in words; empty if there is none."""
    if odd := sorted(tensors.keys() ^ least.keys()):
        return f"{odd[0]} is {'one more' if odd[0] in tensors else 'missing'}"
    for name, numbers in tensors.items():
        if (numbers.dtype, numbers.shape) != (least[name].dtype, least[name].shape):
            return (
                f"{name} is {numbers.dtype} of shape {numbers.shape} instead of "
                f"{least[name].dtype} of shape {least[name].shape}"
            )
        if not are_between(numbers, least[name], most[name]):
            return f"{name} has other numbers"
    return ""
