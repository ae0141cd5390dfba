"""Find the int8 network that is still right: the method, and the blocks that stay float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from levit_deploy.arrays import Images
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

    ``errors`` are the methods' errors of the logits on the calibration pictures, root mean squares
    in units of the float logits' own deviation (of the logarithms of probabilities, where those are
    what the network gives); ``costs`` the same for each block, with all others
    float. ``float_blocks`` are those that were left so, most costly first. ``speed`` is against the
    fastest float32 file, on this machine, None where it was not measured.
    """

    cpu: str
    calibrated_on: int
    method: str
    errors: dict[str, float]
    costs: dict[str, float]
    float_blocks: tuple[str, ...]
    accuracy: Accuracy
    speed: Ratio | None = None


def search(
    plain: onnx.ModelProto,
    calibration: Images,
    pictures: Judging,
    *,
    cpu: str,
    max_drop: float | None,
    progress: Callable[[str], object],
) -> tuple[onnx.ModelProto, Quantization]:
    """Quantize a float graph with the method of least error, and no block that costs too much.

    Blocks go back to float in the order of what they cost, as few of them as hold the drop.
    Raises VerificationError where none but the float network holds it.
    """
    batch = plain.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None
    run = runner(plain.SerializeToString(), batch)
    softmax = plain.graph.output[0].name == PROBABILITIES
    expected = log_probabilities(run(calibration)) if softmax else run(calibration)

    def error(model: onnx.ModelProto, most: int) -> float:
        found = runner(model.SerializeToString(), batch)(calibration[:most])
        found = log_probabilities(found) if softmax else found
        return float(np.sqrt(np.mean((found - expected[:most]) ** 2)) / expected.std())

    candidates = {}
    for method in METHODS:
        progress(f"calibrating by {method}")
        candidates[method] = quantize_graph(plain, calibration, method, cpu)
    errors = {name: error(model, len(calibration)) for name, model in candidates.items()}
    method = min(METHODS, key=lambda name: errors[name])
    quantized = candidates[method]

    blocks, costs = quantized_blocks(quantized), {}
    for block in blocks:
        progress(f"measuring what {block} costs")
        others = [other for other in blocks if other != block]
        costs[block] = error(restored(quantized, plain, others), MOST_IN_A_LOOK)
    ranked = sorted(blocks, key=lambda block: -costs[block])

    answers = top1(run, pictures)

    def judged(floats: int) -> tuple[onnx.ModelProto, Accuracy]:
        progress(f"judging with {floats} of {len(blocks)} blocks in float")
        model = restored(quantized, plain, ranked[:floats])
        found = top1(runner(model.SerializeToString(), batch), pictures)
        return model, accuracy(answers, found, pictures, max_drop)

    model, result = judged(0)
    worst = result
    if result.constant_drop <= result.allowed:  # which no block in float would change
        raise VerificationError(
            f"int8 cannot be judged: on {result.pictures} pictures, {result.failures[0]}. Nothing "
            "was published. If the network is better than that, correct these; otherwise give "
            "pictures of all that it tells apart, or a smaller --max-drop."
        )
    fails, holds = 0, 0 if not result.failures else len(ranked)
    while holds - fails > 1:
        middle = (fails + holds) // 2
        tried, figures = judged(middle)
        if figures.failures:
            fails = middle
        else:
            holds, model, result = middle, tried, figures
    if holds == len(ranked):
        raise VerificationError(
            f"int8 costs this network too much: {worst.failures[0]}, and as long as any block is "
            f"int8, the drop does not stay within it. Nothing was published. Give more pictures "
            "such as the network meets, a larger --max-drop, or another --precision."
        )
    return model, Quantization(
        cpu=cpu,
        calibrated_on=len(calibration),
        method=method,
        errors=errors,
        costs=costs,
        float_blocks=tuple(ranked[:holds]),
        accuracy=result,
    )
