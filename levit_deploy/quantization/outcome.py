"""The outcome of quantization: how a network was rounded, or why it was not."""

from dataclasses import dataclass
from typing import NoReturn

from levit_deploy.choices import Cpu, Precision
from levit_deploy.errors import VerificationError
from levit_deploy.timing import Ratio
from levit_deploy.verification.accuracy import Accuracy


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a network was quantized.

    ``errors`` has each method's error of the logits on the calibration pictures: a root mean square
    in units of the float logits' own deviation. For a network with probabilities it is the error of
    their logarithms. ``costs`` has the same for each block, with all others in float, if some part
    had to stay float.
    ``cpu`` is None for NPUs. ``left_in_float`` has the layers that stay float, or whole blocks, the
    costliest first.
    ``speed`` is against the fastest float32 file on this machine, None if it was not measured.
    """

    cpu: Cpu | None
    calibrated_on: int
    method: str
    errors: dict[str, float]
    costs: dict[str, float]
    left_in_float: tuple[str, ...]
    accuracy: Accuracy
    speed: Ratio | None = None


def refuse_if_nothing_is_judged(accuracy: Accuracy, precision: Precision) -> None:
    """Raise VerificationError if pictures allow any network; no layer in float changes that."""
    if accuracy.constant_drop <= accuracy.allowed:
        raise VerificationError(
            f"{precision} cannot be judged. On {accuracy.pictures} pictures, "
            f"{accuracy.failures[0]}. Nothing was published. If the network is better than "
            "that, correct these options. Otherwise give pictures of all its classes, or a smaller "
            "--max-drop."
        )


def refuse_loss(accuracy: Accuracy, precision: Precision, remark: str = "") -> NoReturn:
    """Raise VerificationError for a loss that is not allowed; ``remark`` is a sentence about it."""
    too_few = accuracy.too_few_pictures
    reason = "is not shown to be accurate enough" if too_few else "costs this network too much"
    raise VerificationError(
        f"{precision} {reason}: {accuracy.failures[0]}. {remark}Nothing was published. Give more "
        "pictures such as the network meets, a larger --max-drop, or another --precision."
    )
