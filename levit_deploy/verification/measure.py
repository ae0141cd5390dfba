"""Does an artifact compute the same function as its original?"""

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from levit_deploy.arrays import Images, Run
from levit_deploy.choices import DTYPES, Precision
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import CheckpointError, VerificationError
from levit_deploy.interface import COMPARED, Interface
from levit_deploy.memory import give_back
from levit_deploy.provenance import is_ours
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.verification.answers import remembered
from levit_deploy.verification.batches import ComparedBatch, compare_batches
from levit_deploy.verification.block_by_block import find_where, images_of_all_kinds, look_into
from levit_deploy.verification.budget import log_probabilities
from levit_deploy.verification.compare import (
    BEYOND_CHANCE,
    LOGITS,
    CaseResult,
    Compared,
    Parts,
    compare_case,
    look_inside,
    run_alone,
)
from levit_deploy.verification.inputs import Case, as_taken, pixel_cases, standard_cases
from levit_deploy.verification.original import Original
from levit_deploy.verification.reference import REMEDY, Reference
from levit_deploy.verification.result import Verification
from levit_deploy.verification.telling import telling_case

log = logging.getLogger(__name__)


def measure(
    original: Original,
    artifact: Artifact,
    *,
    precision: Precision = "fp32",
    extra: tuple[Case, ...] = (),
    seed: int = 0,
    literal: Run | None = None,
) -> Verification:
    """Compare an artifact with its original on the standard inputs and any extra ones.

    The reference is the original in float64, and the unit of error the original in ``precision``.
    For one of ROUNDED it is the error of ``literal``: the file computed node by node in floats. An
    artifact that takes bytes is given bytes, and the original the same bytes, normalised. Every
    block is compared as well, on the input that it gets in the artifact. Returns the figures
    whatever they are. Raises VerificationError if the artifact takes other images or gives other
    classes, CheckpointError if the original itself overflows, and BackendError if the artifact
    cannot run.
    """
    _require_same_ends(original, artifact)
    if artifact.interface.output == "probabilities":
        artifact = replace(artifact, run=_logarithms(artifact.run))
        literal = literal and _logarithms(literal)
    interface = artifact.interface
    reference = _reference(original, interface, precision, literal)
    parts = _parts(interface, original.config)
    cases = _compared(original, artifact, reference, extra, seed, parts)
    log.info(
        "compared %d images with the original, alone: largest error %.2f of the error allowed",
        sum(case.result.images for case in cases),
        max(case.result.excess for case in cases),
    )
    give_back()  # what the original took
    images = images_of_all_kinds(original, cases)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:  # the artifact may have a process of its own
        comparing = pool.submit(look_into(original, artifact, images, precision, stop.is_set))
        try:
            batches = compare_batches(
                cases, reference, artifact.run, artifact.batch_size, seed, parts
            )
            blocks = comparing.result()
        finally:
            stop.set()
    log.info(
        "compared %d batches with the images alone: largest difference %.2f of that allowed",
        len(batches),
        max(batch.result.difference / batch.result.allowed for batch in batches),
    )
    blocks, parting = find_where(original, artifact, blocks, cases, batches, precision)
    if blocks and parting is None and any(map(_is_beyond_chance, cases)):
        # one image may do that, if attention goes to another key by a last bit
        log.info("every block agrees, so what is far off is looked at again")
        cases = _compared(original, artifact, reference, extra, seed, parts, math.inf)
        batches = compare_batches(cases, reference, artifact.run, artifact.batch_size, seed, parts)
    verification = Verification(
        format=artifact.format,
        runtime=artifact.runtime,
        sha256=artifact.sha256,
        precision=precision,
        head=original.head,
        seed=seed,
        cases=tuple(result for case in cases for result in case.results),
        batches=tuple(batch.result for batch in batches),
        interface=interface,
        remarks=_remarks(artifact, batches),
    )
    if verification.passed:
        for output in zip(*(case.results for case in cases), strict=True):
            _refuse_if_nothing_is_proven(verification, output)
    return replace(verification, blocks=blocks, parting=parting)


@contextmanager
def answered_ahead(
    original: Original,
    interface: Interface,
    precision: Precision,
    extra: tuple[Case, ...] = (),
    seed: int = 0,
) -> Iterator[None]:
    """Have the original answer, in a thread, what ``measure`` of this object will ask later.

    It does so while the block runs. What it cannot answer is left to ``measure``.
    """
    try:
        reference = _reference(original, interface, precision, None)
    except CheckpointError:
        yield
        return
    with reference.ahead(_first_images(original, interface, extra, seed)):
        yield


def _reference(
    original: Original, interface: Interface, precision: Precision, literal: Run | None
) -> Reference:
    normalised = original.transform.normalise if interface.input == "uint8" else None
    return Reference(
        original.model, precision, literal, interface.output, normalised, original.answers
    )


def _parts(interface: Interface, config: LeViTConfig) -> Parts:
    """Where each output stands in a row of an artifact's answers."""
    if interface.has_classes:
        return LOGITS
    parts, start = {}, 0
    for name, shape in interface.outputs(config).items():
        parts[name] = slice(start, start := start + math.prod(shape))
    return parts


def _remarks(artifact: Artifact, batches: Sequence[ComparedBatch]) -> tuple[str, ...]:
    """The remarks of a file of another tool, with one if its answers depend on the batch."""
    if is_ours(artifact.metadata) or not any(batch.result.failures for batch in batches):
        return artifact.remarks
    return (
        *artifact.remarks,
        "Images change each other's outputs, as those of a network in training mode do. If it was "
        "exported so, export it after model.eval().",
    )


def _require_same_ends(original: Original, artifact: Artifact) -> None:
    expected = artifact.interface.image_shape(original.config)
    if artifact.image_shape != expected:
        raise VerificationError(
            f"{artifact.path} takes images of shape {artifact.image_shape}, the checkpoint takes "
            f"{expected}. It was made from another network, or with another --image-size. In the "
            "latter case, give verify the same --image-size."
        )
    if artifact.maps and artifact.maps != artifact.interface.outputs(original.config):
        raise VerificationError(
            f"{artifact.path} gives maps of {artifact.maps}, the checkpoint's are "
            f"{artifact.interface.outputs(original.config)}. It was made from another network. Do "
            "not ship it."
        )


def _first_images(
    original: Original, interface: Interface, extra: tuple[Case, ...], seed: int
) -> Iterator[list[Images]]:
    """The images of the first look, in two groups: the telling ones are to be found first."""
    yield [case.draw(case.sizes[0]) for case in _given_cases(original, interface, extra, seed)]
    yield [case.draw(case.sizes[0]) for case in _telling_cases(original, interface, seed)]


def _given_cases(
    original: Original, interface: Interface, extra: tuple[Case, ...], seed: int
) -> tuple[Case, ...]:
    """The standard kinds of input and the extra ones, as such an artifact takes them."""
    if interface.input == "uint8":
        standard = pixel_cases(original.transform, seed)
    else:
        standard = standard_cases(original.config, seed)
    return (*standard, *(as_taken(case, interface, original.transform) for case in extra))


def _telling_cases(original: Original, interface: Interface, seed: int) -> tuple[Case, ...]:
    """The images that tell of blocks of which ordinary ones do not, if there are such blocks."""
    telling: Case | None = remembered(
        original.answers,
        ("telling", interface.input, seed),
        lambda: telling_case(original, _given_cases(original, interface, (), seed)[0], seed),
    )
    return () if telling is None else (telling,)


def _compared(
    original: Original,
    artifact: Artifact,
    reference: Reference,
    extra: tuple[Case, ...],
    seed: int,
    parts: Parts,
    beyond_chance: float = BEYOND_CHANCE,
) -> list[Compared]:
    fixed, interface = artifact.batch_size, artifact.interface
    with reference.ahead(_first_images(original, interface, extra, seed)):
        cases = _given_cases(original, interface, extra, seed)
        cases += _telling_cases(original, interface, seed)
        first = [run_alone(artifact.run, case.draw(case.sizes[0]), fixed) for case in cases]
        compared = [
            compare_case(case, reference, artifact.run, fixed, parts, answers, beyond_chance)
            for case, answers in zip(cases, first, strict=True)
        ]
    if reference.precision != "fp16":
        return compared
    return [look_inside(case, artifact.values, fixed) for case in compared]


def _is_beyond_chance(case: Compared) -> bool:
    return bool(case.result.failures) and BEYOND_CHANCE < case.result.excess < math.inf


def _logarithms(run: Run) -> Run:
    """Probabilities as they are compared."""
    return lambda images: log_probabilities(run(images))


def _refuse_if_nothing_is_proven(verification: Verification, output: Sequence[CaseResult]) -> None:
    """Raise CheckpointError if the answer to one image would do for all, within the budget.

    ``output`` has the figures of one output. This happens in reduced precision, or if all
    probabilities but one are too small for float32. Float32 logits that do not differ are proven:
    the checkpoint has one answer.
    """
    first, probabilities = output[0], verification.interface.output == "probabilities"
    if verification.precision not in ("fp16", "bf16") and not probabilities:
        return
    if any(case.budget.rmse < case.spread for case in output):
        return
    compared = COMPARED[verification.interface.output]
    remedy = REMEDY[verification.precision]
    if probabilities:
        remedy = "Export logits, without --output-type probabilities."
    raise CheckpointError(
        f"In {DTYPES[verification.precision]} the checkpoint's own errors are as large as the "
        f"differences between images: on {first.name} inputs an RMSE of {first.budget.rmse:.1e} is "
        f"allowed, and {compared} differ by {first.spread:.1e}. So the proof proves nothing. Real "
        f"pictures may differ more: give some with --images. Or: {remedy}"
    )
