"""Every target. A new one is a file of its own, and its name and object here."""

from typing import Literal, get_args

from levit_deploy.choices import RUNTIMES, Precision, Runtime, require_one_of
from levit_deploy.errors import UsageError
from levit_deploy.extras import require_openvino
from levit_deploy.targets.executorch import EXECUTORCH
from levit_deploy.targets.fused import FUSED
from levit_deploy.targets.litert import LITERT
from levit_deploy.targets.onnx import ONNX, ONNX_FOR_OPENVINO
from levit_deploy.targets.pt2 import PT2, compiled_here
from levit_deploy.targets.target import Target
from levit_deploy.targets.torchscript import TORCHSCRIPT

Format = Literal["onnx", "torchscript", "pt2", "executorch", "litert"]
FORMATS: tuple[Format, ...] = get_args(Format)
# pt2 comes before torchscript, which takes any zip archive for its own.
TARGETS: dict[str, Target] = {
    target.name: target for target in (ONNX, PT2, TORCHSCRIPT, EXECUTORCH, LITERT)
}


def target_named(format: str, runtime: Runtime = "onnxruntime", *, compile: bool = False) -> Target:
    """Return the target of this name, which for ONNX is one for a runtime.

    ``compile`` is for PT2, and gives one for this kind of processor. Raises UsageError if there is
    none, or if OpenVINO is asked for and is not installed.
    """
    target = TARGETS[require_one_of("format", format, TARGETS)]
    if require_one_of("--runtime", runtime, RUNTIMES) == "onnxruntime":
        return compiled_here() if compile and target is PT2 else target
    if target is not ONNX:
        raise UsageError(
            f"--runtime {runtime} is for ONNX, and --format {target.name} has a runtime of its "
            "own. Leave one of them out."
        )
    require_openvino()
    return ONNX_FOR_OPENVINO


def target_of(start: bytes) -> Target:
    """Return the target of a file that begins with these START bytes.

    That is ONNX if nothing else knows them: its loader names the fault of the file.
    """
    targets = (FUSED, *TARGETS.values())
    return next((target for target in targets if target.recognises(start)), ONNX)


def require_precision(target: Target, precision: Precision) -> None:
    """Raise UsageError if a target's files cannot compute in a precision."""
    if precision in target.precisions:
        return
    if target.name in TARGETS and precision in TARGETS[target.name].precisions:
        raise UsageError(
            f"--precision {precision} is not for --runtime {target.runtime}, whose files compute "
            f"in {' or '.join(target.precisions)}. Choose one of these, or leave --runtime out."
        )
    others = [name for name, other in TARGETS.items() if precision in other.precisions]
    raise UsageError(
        f"--precision {precision} is not for --format {target.name}, which computes in "
        f"{' or '.join(target.precisions)}. Choose one of these, or --format {' or '.join(others)}."
    )
