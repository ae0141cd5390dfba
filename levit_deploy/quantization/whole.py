"""Judge a network that the library of its target rounds as a whole, with nothing left in float."""

from collections.abc import Callable
from functools import partial

import numpy as np

from levit_deploy.arrays import Images
from levit_deploy.interface import PROBABILITIES
from levit_deploy.pictures.split import Judging
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.outcome import (
    Quantization,
    refuse_if_nothing_is_judged,
    refuse_loss,
)
from levit_deploy.runtime.sessions import filled
from levit_deploy.targets.load import open_data
from levit_deploy.targets.plan import Plan
from levit_deploy.timing import Ratio, in_turns, ratio
from levit_deploy.verification.accuracy import accuracy, top1
from levit_deploy.verification.budget import log_probabilities

ROUNDS = 40
METHOD = "the whole network"


def rounded_as_a_whole(
    plan: Plan,
    calibration: Images,
    pictures: Judging,
    *,
    max_drop: float | None,
    confident: bool,
    progress: Callable[[str], object],
) -> tuple[Callable[[Provenance], bytes], Quantization]:
    """Round a network, and judge it beside its float form, both in the target's own runtime.

    ``calibration`` are also the pictures on which the error of the logits is measured. Returns a
    function that writes the file with its provenance. Raises VerificationError if the rounded
    network loses more than ``max_drop`` on ``pictures``.
    """
    assert plan.target.rounded is not None
    progress(f"rounding the whole network to {plan.precision}")
    write = plan.target.rounded(plan.network(), plan.provenance, plan.options, calibration)
    progress(f"writing it in float32, to judge {plan.precision} by")
    floats, rounded = plan.in_float().serialize(), write(plan.provenance)
    batch = plan.options.fixed_batch
    with open_data(floats) as artifact:
        run = filled(artifact.run, batch)
        expected, float_answers = run(calibration), top1(run, pictures)
    progress("judging it")
    with open_data(rounded) as artifact:
        run = filled(artifact.run, batch)
        given, answers = run(calibration), top1(run, pictures)
    figures = accuracy(float_answers, answers, pictures, max_drop, confident=confident)
    refuse_if_nothing_is_judged(figures, plan.precision)
    if figures.failures:
        refuse_loss(figures, plan.precision)
    if plan.interface.output == PROBABILITIES:
        expected, given = log_probabilities(expected), log_probabilities(given)
    error = float(np.sqrt(np.mean((given - expected) ** 2)) / expected.std())
    progress("timing it beside float32")
    speed = _speed(rounded, floats, calibration[np.arange(batch or 1) % len(calibration)])
    return write, Quantization(
        cpu="any",
        calibrated_on=0 if plan.precision == "int8-dynamic" else len(calibration),
        method=METHOD,
        errors={METHOD: error},
        costs={},
        left_in_float=(),
        accuracy=figures,
        speed=speed,
    )


def _speed(rounded: bytes, floats: bytes, images: Images) -> Ratio:
    """Time both on one thread, in processes of their own."""
    with open_data(rounded, threads=1) as int8, open_data(floats, threads=1) as float32:
        opened = {"int8": int8, "float32": float32}
        timers = {name: partial(artifact.seconds, images) for name, artifact in opened.items()}
        times = in_turns(timers, rounds=ROUNDS)
    return ratio(times["float32"], times["int8"])
