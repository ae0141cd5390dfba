"""Every target. A new one is a file of its own, and its name and object here."""

from typing import Literal, get_args

from levit_deploy.choices import Precision, require_one_of
from levit_deploy.errors import UsageError
from levit_deploy.targets.fused import FUSED
from levit_deploy.targets.onnx import ONNX
from levit_deploy.targets.target import Target
from levit_deploy.targets.torchscript import TORCHSCRIPT

Format = Literal["onnx", "torchscript"]
FORMATS: tuple[Format, ...] = get_args(Format)
TARGETS: dict[str, Target] = {target.name: target for target in (ONNX, TORCHSCRIPT)}


def target_named(format: str) -> Target:
    """Return the target of this name; raise UsageError if there is none."""
    return TARGETS[require_one_of("format", format, TARGETS)]


def target_of(start: bytes) -> Target:
    """Return the target of a file that begins with these 16 bytes.

    That is ONNX if nothing else knows them: its loader names the fault of the file.
    """
    targets = (FUSED, *TARGETS.values())
    return next((target for target in targets if target.recognises(start)), ONNX)


def require_precision(target: Target, precision: Precision) -> None:
    """Raise UsageError if a target's files cannot compute in a precision."""
    if precision in target.precisions:
        return
    others = [name for name, other in TARGETS.items() if precision in other.precisions]
    raise UsageError(
        f"--precision {precision} is not for --format {target.name}, which computes in "
        f"{' or '.join(target.precisions)}. Choose one of these, or --format {' or '.join(others)}."
    )
