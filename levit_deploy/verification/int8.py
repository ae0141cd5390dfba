"""Proof of an int8 artifact: float network, rounding, runtime and pictures, one after the other.

An int8 network computes another function than its original, so no bound on its logits proves it.
But it is the float network with its numbers rounded, and each of the four steps has a standard:

    the float network, exported again from the checkpoint: the original, as for every artifact
    the artifact: that float network, rounded, and nothing else (``Target.standard``)
    the runtime: the file computed literally, in floats, whose error it may have twice
    the answers on pictures: those of the float network (``Accuracy``)
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from levit_deploy.arrays import Run
from levit_deploy.choices import Precision, Runtime
from levit_deploy.pictures.split import Judging
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.runtime.sessions import filled
from levit_deploy.targets.load import open_data, open_isolated
from levit_deploy.targets.target import Int8Standard
from levit_deploy.verification.accuracy import accuracy, top1
from levit_deploy.verification.inputs import Case
from levit_deploy.verification.measure import measure
from levit_deploy.verification.original import Original
from levit_deploy.verification.result import Verification

log = logging.getLogger(__name__)


def measure_int8(
    original: Original,
    artifact: Artifact,
    standard: Int8Standard,
    *,
    precision: Precision = "int8",
    pictures: Judging,
    max_drop: float | None = None,
    confident: bool = False,
    extra: tuple[Case, ...] = (),
) -> Verification:
    """Compare an int8 artifact with its original, and with the standard for a rounded one.

    ``pictures`` judge its answers, and it may lose ``max_drop`` points on them, with confidence if
    ``confident``. The rest is as for ``measure``.
    """
    # an ONNX file computes what onnxruntime says, whatever runtime it is for
    runtime: Runtime | None = "onnxruntime" if artifact.format == "onnx" else None
    batch = artifact.batch_size
    with open_data(standard.unrounded, runtime) as unrounded:
        float_proof = measure(original, unrounded, extra=extra)
        float_answers = top1(filled(unrounded.run, batch), pictures, unrounded.sha256)
    with _literal(artifact, standard, runtime) as literal:
        proof = measure(
            original,
            artifact,
            precision=precision,
            extra=extra,
            literal=filled(literal, batch),
        )
    answers = top1(filled(artifact.run, batch), pictures)
    figures = accuracy(float_answers, answers, pictures, max_drop, confident=confident)
    log.info("judged on %d pictures: %s", figures.pictures, figures.summary)
    return replace(proof, unrounded=float_proof, accuracy=figures)


@contextmanager
def _literal(artifact: Artifact, standard: Int8Standard, runtime: Runtime | None) -> Iterator[Run]:
    """The rounded network, computed number by number in floats."""
    if standard.literal is not None:
        yield standard.literal
        return
    with open_isolated(artifact.path, literal=True, runtime=runtime) as opened_literally:
        yield opened_literally.run
