"""The arrays that artifacts take and give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Images = npt.NDArray[np.float32 | np.uint8]  # as an artifact takes them (``Interface.input``)
Run = Callable[[Images], FloatArray]  # images -> (batch, numbers), a row for each image

BATCH_SIZE = 8  # images at once, if the batch is free


def rows(outputs: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The outputs of a network as a row for each image: several are flattened, side by side."""
    if len(outputs) == 1:
        return outputs[0]
    return np.concatenate([output.reshape(len(output), -1) for output in outputs], axis=1)
