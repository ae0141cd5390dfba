"""Judge a network that the library of its target rounds as a whole, with nothing left in float."""

from collections.abc import Callable

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
from levit_deploy.verification.accuracy import accuracy, top1
from levit_deploy.verification.budget import log_probabilities

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
    batch = plan.options.fixed_batch
    with open_data(plan.in_float().serialize()) as artifact:
        run = filled(artifact.run, batch)
        expected, float_answers = run(calibration), top1(run, pictures)
    progress("judging it")
    with open_data(write(plan.provenance)) as artifact:
        run = filled(artifact.run, batch)
        given, answers = run(calibration), top1(run, pictures)
    figures = accuracy(float_answers, answers, pictures, max_drop, confident=confident)
    refuse_if_nothing_is_judged(figures, plan.precision)
    if figures.failures:
        refuse_loss(figures, plan.precision)
    if plan.interface.output == PROBABILITIES:
        expected, given = log_probabilities(expected), log_probabilities(given)
    error = float(np.sqrt(np.mean((given - expected) ** 2)) / expected.std())
    return write, Quantization(
        cpu="any",
        calibrated_on=0 if plan.precision == "int8-dynamic" else len(calibration),
        method=METHOD,
        errors={METHOD: error},
        costs={},
        left_in_float=(),
        accuracy=figures,
    )
