"""Proof of an int8 artifact: float network, rounding, runtime and pictures, one after the other.

An int8 network computes another function than its original, so no bound on its logits proves it.
But it is the float network with its numbers rounded, and each of the four steps has a standard:

    the float network, exported again from the checkpoint: the original, as for every artifact
    the artifact: that float network, rounded, and nothing else (``check_rounding``)
    the runtime: the file computed literally, in floats, whose error it may have twice
    the answers on pictures: those of the float network (``Accuracy``)
"""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from levit_deploy.choices import Precision
from levit_deploy.errors import UsageError
from levit_deploy.pictures.split import Judging
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.runtime.sessions import filled
from levit_deploy.targets.load import open_isolated
from levit_deploy.targets.onnx_ends import with_usual_names
from levit_deploy.verification.accuracy import accuracy, top1
from levit_deploy.verification.inputs import Case
from levit_deploy.verification.measure import measure
from levit_deploy.verification.original import Original
from levit_deploy.verification.result import Verification
from levit_deploy.verification.rounding import check_rounding

log = logging.getLogger(__name__)


def measure_int8(
    original: Original,
    artifact: Artifact,
    plain: bytes,
    *,
    precision: Precision = "int8",
    pictures: Judging | None,
    max_drop: float | None = None,
    confident: bool = False,
    extra: tuple[Case, ...] = (),
    blocks: bool = False,
) -> Verification:
    """Compare an int8 artifact with its original, and with ``plain``, its float form in ONNX.

    ``pictures`` judge its answers, and it may lose ``max_drop`` points on them, with confidence if
    ``confident``. The rest is as for ``measure``. Raises UsageError if there are no pictures, and
    VerificationError if the artifact is not its float form, rounded.
    """
    if pictures is None:
        raise UsageError(
            f"{artifact.path} computes in {precision}, and its accuracy shows on pictures only. "
            "Give a folder of pictures with --images."
        )
    rounded = onnx.load(artifact.path, load_external_data=False)
    check_rounding(with_usual_names(rounded, artifact.interface), onnx.load_from_string(plain))
    log.info("the artifact is the float network, rounded; comparing that network first")
    batch = artifact.batch_size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        path.write_bytes(plain)
        with open_isolated(path, runtime="onnxruntime") as unrounded:
            float_proof = measure(original, unrounded, extra=extra)
            float_answers = top1(filled(unrounded.run, batch), pictures)
    with open_isolated(artifact.path, literal=True, runtime="onnxruntime") as opened:
        proof = measure(
            original,
            artifact,
            precision=precision,
            extra=extra,
            literal=filled(opened.run, batch),
            blocks=blocks,
        )
    answers = top1(filled(artifact.run, batch), pictures)
    figures = accuracy(float_answers, answers, pictures, max_drop, confident=confident)
    log.info("judged on %d pictures: %s", figures.pictures, figures.summary)
    return replace(proof, unrounded=float_proof, accuracy=figures)
