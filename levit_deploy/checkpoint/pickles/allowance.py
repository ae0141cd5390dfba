"""How much work a pickle may make, so that a small file cannot take all memory or time."""

# A stored loss of numpy, with all that Python's pickler remembers of it, takes 14.
MAX_STEPS = 1 << 21


class Allowance:
    """The steps left. One step is an instruction, or anything else of a few hundred bytes."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Take steps away. Raises ValueError if there are not so many."""
        self._left -= steps
        if self._left < 0:
            raise ValueError(f"its pickle takes more than {MAX_STEPS} steps")
