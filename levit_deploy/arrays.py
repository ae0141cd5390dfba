"""The arrays that artifacts take and give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Images = npt.NDArray[np.float32 | np.uint8]  # as an artifact takes them (``Interface.input``)
Run = Callable[[Images], FloatArray]  # images -> (batch, classes)

BATCH_SIZE = 8  # images at once, if the batch is free
