"""Find the int8 network that is still right: the method, and the layers that stay float."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import onnx

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.choices import Cpu
from levit_deploy.interface import PROBABILITIES
from levit_deploy.pictures.split import Judging
from levit_deploy.quantization.calibration import METHODS, observed_ranges
from levit_deploy.quantization.fit import fitted
from levit_deploy.quantization.outcome import (
    Quantization,
    refuse_if_nothing_is_judged,
    refuse_loss,
)
from levit_deploy.runtime.sessions import filled, runner
from levit_deploy.targets.load import open_data
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_rounding import Rounding
from levit_deploy.targets.onnx_schemes import FOR_OPENVINO
from levit_deploy.verification.accuracy import Accuracy, accuracy, top1
from levit_deploy.verification.budget import log_probabilities

MOST_IN_A_LOOK = 16  # pictures to tell how much one block costs

Parts = tuple[str, ...]


@dataclass(frozen=True)
class _Judged:
    """A network with these parts in float, and its answers judged."""

    floats: Parts
    model: onnx.ModelProto
    accuracy: Accuracy


def search(
    form: Int8Form,
    calibration: Images,
    pictures: Judging,
    *,
    cpu: Cpu,
    max_drop: float | None,
    confident: bool,
    block_names: Mapping[str, str],
    progress: Callable[[str], object],
) -> tuple[onnx.ModelProto, Quantization]:
    """Round a network by the method of least error, with no layer that costs too much.

    The weights are fitted to the pictures if that makes the error smaller. Blocks go back to float
    in the order of their cost, as few as hold the drop. Then the layers of these blocks are rounded
    again, as many as it allows. Blocks are told by ``block_names``, which has another name for
    some. ``confident`` asks that the pictures show it with confidence. Raises VerificationError if
    only the float network holds it.
    """
    precision = form.scheme.precision
    plain, parts = form.unrounded(), form.places().parts
    error = _error_against(plain, calibration, form.batch_size)
    progress("calibrating")
    observed = observed_ranges(form, calibration)
    roundings = {method: Rounding(ranges=observed[method], cpu=cpu) for method in METHODS}
    errors = {}
    for method, rounding in roundings.items():
        progress(f"rounding by {method}")
        errors[method] = error(form.rounded(rounding), len(calibration))
    method = min(errors, key=lambda name: errors[name])
    progress(f"fitting the weights to {method}")
    fit, name = fitted(form, roundings[method], calibration), f"{method} and least squares"
    roundings[name], errors[name] = fit, error(form.rounded(fit), len(calibration))
    method = min(errors, key=lambda name: errors[name])

    def rounded(floats: Parts) -> onnx.ModelProto:
        return form.rounded(replace(roundings[method], floats=floats))

    data = plain.SerializeToString(deterministic=True)  # the proof asks the same file again
    float_answers = top1(runner(data, form.batch_size), pictures, sha256(data).hexdigest())

    def judge(floats: Parts) -> _Judged:
        progress(f"judging with {_listed(floats, parts)} in float")
        model = rounded(floats)
        answers = _answers(model, form, pictures)
        figures = accuracy(float_answers, answers, pictures, max_drop, confident=confident)
        return _Judged(floats, model, figures)

    def ranked(candidates: Sequence[str], names: Mapping[str, str]) -> dict[str, float]:
        """The error of each candidate alone if rounded, the largest first."""
        costs = {}
        for candidate in candidates:
            progress(f"measuring the cost of {names[candidate]}")
            others = tuple(part for part in parts if not _is_in(part, candidate))
            costs[candidate] = error(rounded(others), MOST_IN_A_LOOK)
        return dict(sorted(costs.items(), key=lambda item: -item[1]))

    blocks = tuple(dict.fromkeys(block_of(part) for part in parts))
    names = {block: block_names.get(block, block) for block in blocks}
    names |= {part: _layer_name(part, names) for part in parts if part not in blocks}
    best = judge(())
    refuse_if_nothing_is_judged(best.accuracy, precision)
    costs: dict[str, float] = {}
    if best.accuracy.failures:
        costs = ranked(blocks, names)
        holding = _fewest_floats(judge, tuple(costs))
        if holding is None:
            remark = f"It stays so as long as any block is {precision}. "
            refuse_loss(best.accuracy, precision, remark)
        layers = [part for part in parts if any(_is_in(part, block) for block in holding.floats)]
        best = _fewest_floats(judge, tuple(ranked(layers, names)), holding) or holding
    return best.model, Quantization(
        cpu=None if form.scheme.precision == "w8a16" else cpu,
        calibrated_on=len(calibration),
        method=method,
        errors=errors,
        costs={names[block]: cost for block, cost in costs.items()},
        left_in_float=tuple(names[part] for part in best.floats),
        accuracy=best.accuracy,
    )


def _answers(model: onnx.ModelProto, form: Int8Form, pictures: Judging) -> FloatArray:
    """The answers of a network in the runtime that it is for."""
    data: bytes = model.SerializeToString()
    if form.scheme != FOR_OPENVINO:
        return top1(runner(data, form.batch_size), pictures)
    with open_data(data, "openvino") as artifact:
        return top1(filled(artifact.run, form.batch_size), pictures)


def block_of(part: str) -> str:
    """The block of a layer: a convolution of the stem, a block of the trunk, or the head."""
    return ".".join(part.split(".")[:2])


def _is_in(part: str, whole: str) -> bool:
    return f"{part}.".startswith(f"{whole}.")


def _layer_name(part: str, names: Mapping[str, str]) -> str:
    """A layer by its block's name, as in 'stages.0.blocks.1, qkv.q'."""
    block = block_of(part)
    return f"{names[block]}, {part.removeprefix(f'{block}.').removeprefix('m.')}"


def _listed(floats: Parts, parts: Parts) -> str:
    left = sum(any(_is_in(part, whole) for whole in floats) for part in parts)
    return f"{left} of {len(parts)} layers"


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


def _fewest_floats(
    judge: Callable[[Parts], _Judged], ranked: Parts, holding: _Judged | None = None
) -> _Judged | None:
    """The network with the fewest parts in float that holds the drop, if none in float does not.

    ``ranked`` are the parts that may be, the costliest first. ``holding`` is the network with all
    of them in float, if that is known to hold it. Returns None if none was found to.
    """
    fails, holds, best = 0, len(ranked), holding
    while holds - fails > 1:
        middle = (fails + holds) // 2
        judged = judge(ranked[:middle])
        if judged.accuracy.failures:
            fails = middle
        else:
            holds, best = middle, judged
    return best
