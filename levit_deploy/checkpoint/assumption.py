"""An assumption: a fact that neither the file nor you give, and the tensors cannot confirm."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """A fact, and the reason to assume it.

    If it is ``decisive``, another fact would be another function of the same tensors, and people
    train such networks. The verdict of a proof then names it: 'proven, if ``fact``'.
    """

    fact: str
    reason: str
    decisive: bool = False

    def __str__(self) -> str:
        return f"{self.fact}, {self.reason}"
