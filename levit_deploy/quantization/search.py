"""Find the int8 network that is still right: the method, and the blocks that stay float."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.choices import Cpu
from levit_deploy.errors import VerificationError
from levit_deploy.interface import PROBABILITIES
from levit_deploy.pictures.split import Judging
from levit_deploy.quantization.calibration import METHODS, quantize_graph
from levit_deploy.quantization.rounding import quantized_blocks, restored
from levit_deploy.runtime.sessions import runner
from levit_deploy.timing import Ratio
from levit_deploy.verification.accuracy import Accuracy, accuracy, top1
from levit_deploy.verification.budget import log_probabilities

MOST_IN_A_LOOK = 16  # pictures to tell how much one block costs


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a network was quantized.

    ``errors`` has each method's error of the logits on the calibration pictures: a root mean square
    in units of the float logits' own deviation. For a network with probabilities it is the error of
    their logarithms. ``costs`` has the same for each block, with all others in float.
    ``float_blocks`` are those left in float, the costliest first. ``speed`` is against the fastest
    float32 file on this machine, None if it was not measured.
    """

    cpu: Cpu
    calibrated_on: int
    method: str
    errors: dict[str, float]
    costs: dict[str, float]
    float_blocks: tuple[str, ...]
    accuracy: Accuracy
    speed: Ratio | None = None


@dataclass(frozen=True)
class _Judged:
    """A network with the costliest ``floats`` blocks in float, and its answers judged."""

    floats: int
    model: onnx.ModelProto
    accuracy: Accuracy


def search(
    plain: onnx.ModelProto,
    calibration: Images,
    pictures: Judging,
    *,
    cpu: Cpu,
    max_drop: float | None,
    block_names: Mapping[str, str],
    progress: Callable[[str], object],
) -> tuple[onnx.ModelProto, Quantization]:
    """Quantize a float graph by the method of least error, with no block that costs too much.

    Blocks go back to float in the order of their cost, as few as hold the drop. They are told by
    ``block_names``, which has another name for some. Raises VerificationError if only the float
    network holds it.
    """
    batch = plain.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None
    error = _error_against(plain, calibration, batch)
    candidates = {}
    for method in METHODS:
        progress(f"calibrating by {method}")
        candidates[method] = quantize_graph(plain, calibration, method, cpu)
    errors = {name: error(model, len(calibration)) for name, model in candidates.items()}
    method = min(METHODS, key=lambda name: errors[name])
    quantized = candidates[method]
    names = {block: block_names.get(block, block) for block in quantized_blocks(quantized)}
    costs = _costs(quantized, plain, error, names, progress)
    ranked = sorted(costs, key=lambda block: -costs[block])
    float_answers = top1(runner(plain.SerializeToString(), batch), pictures)

    def judge(floats: int) -> _Judged:
        progress(f"judging with {floats} of {len(ranked)} blocks in float")
        model = restored(quantized, plain, ranked[:floats])
        answers = top1(runner(model.SerializeToString(), batch), pictures)
        return _Judged(floats, model, accuracy(float_answers, answers, pictures, max_drop))

    best = _fewest_floats(judge, len(ranked))
    return best.model, Quantization(
        cpu=cpu,
        calibrated_on=len(calibration),
        method=method,
        errors=errors,
        costs={names[block]: cost for block, cost in costs.items()},
        float_blocks=tuple(names[block] for block in ranked[: best.floats]),
        accuracy=best.accuracy,
    )


def _error_against(
    plain: onnx.ModelProto, calibration: Images, batch: int | None
) -> Callable[[onnx.ModelProto, int], float]:
    """The error of a network on the first so many pictures, as ``Quantization.errors`` has it."""
    softmax = plain.graph.output[0].name == PROBABILITIES

    def answers(model: onnx.ModelProto, images: Images) -> FloatArray:
        outputs = runner(model.SerializeToString(), batch)(images)
        return log_probabilities(outputs) if softmax else outputs

    expected = answers(plain, calibration)

    def error(model: onnx.ModelProto, most: int) -> float:
        difference = answers(model, calibration[:most]) - expected[:most]
        return float(np.sqrt(np.mean(difference**2)) / expected.std())

    return error


def _costs(
    quantized: onnx.ModelProto,
    plain: onnx.ModelProto,
    error: Callable[[onnx.ModelProto, int], float],
    names: Mapping[str, str],
    progress: Callable[[str], object],
) -> dict[str, float]:
    """The error of each block in int8 with all others in float; ``names`` has every block."""
    costs = {}
    for block, name in names.items():
        progress(f"measuring the cost of {name}")
        others = [other for other in names if other != block]
        costs[block] = error(restored(quantized, plain, others), MOST_IN_A_LOOK)
    return costs


def _fewest_floats(judge: Callable[[int], _Judged], most: int) -> _Judged:
    """The network with the fewest blocks in float that holds the drop, out of ``most`` blocks."""
    first = judge(0)
    if first.accuracy.constant_drop <= first.accuracy.allowed:  # no block in float changes that
        raise VerificationError(
            f"int8 cannot be judged. On {first.accuracy.pictures} pictures, "
            f"{first.accuracy.failures[0]}. Nothing was published. If the network is better than "
            "that, correct these options. Otherwise give pictures of all its classes, or a smaller "
            "--max-drop."
        )
    if not first.accuracy.failures:
        return first
    fails, holds, best = 0, most, None
    while holds - fails > 1:
        middle = judge((fails + holds) // 2)
        if middle.accuracy.failures:
            fails = middle.floats
        else:
            holds, best = middle.floats, middle
    if best is None:
        raise VerificationError(
            f"int8 costs this network too much: {first.accuracy.failures[0]}. The drop stays too "
            "large as long as any block is int8. Nothing was published. Give more pictures such as "
            "the network meets, a larger --max-drop, or another --precision."
        )
    return best
