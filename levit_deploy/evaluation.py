"""The accuracy of an artifact on pictures, and its disagreements with the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from levit_deploy.arrays import FloatArray, Images, Run
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import ArtifactError, InputError
from levit_deploy.pictures.class_folders import class_indices, doubtful, labelled
from levit_deploy.pictures.files import is_unlisted, no_pictures, walk_pictures
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.prediction.predict import Answer, best, scored
from levit_deploy.prediction.processor import Processor, read_processor
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.load import open_isolated

if TYPE_CHECKING:  # which imports torch, and only --against needs it
    from levit_deploy.checkpoint import Checkpoint, Source

TOP_K = 5


@dataclass(frozen=True)
class Disagreement:
    """A picture of class ``expected`` to which artifact and original answer differently."""

    path: Path
    expected: int
    artifact: Answer
    original: Answer


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The answers of an artifact to the pictures in class folders, counted.

    ``top1`` and ``top5`` are percentages of the ``pictures`` answered: the first answer was right,
    or one of the first five. ``original_top1`` and ``original_top5`` are the original's, None
    without one. ``disagreements`` are all pictures to which the two give different first answers.
    ``skipped`` pictures could not be used. ``classes`` has the class index of each folder, and
    ``preprocessing`` is that of each picture. ``checkpoint_sha256`` is the one in the artifact's
    metadata. ``doubts`` has a sentence for each reason to doubt the figures.
    """

    path: Path
    format: str
    sha256: str
    precision: str
    checkpoint_sha256: str
    classes: dict[str, int]
    pictures: int
    skipped: int
    top1: float
    top5: float
    original_top1: float | None
    original_top5: float | None
    disagreements: tuple[Disagreement, ...]
    preprocessing: Preprocessing
    doubts: tuple[str, ...]

    @property
    def changed_for_better(self) -> int:
        """The number of pictures that the artifact gets right, and the original wrong."""
        return sum(d.artifact.index == d.expected for d in self.disagreements)

    @property
    def changed_for_worse(self) -> int:
        """The number of pictures that the artifact gets wrong, and the original right."""
        return sum(d.original.index == d.expected for d in self.disagreements)


def evaluate(
    artifact: str | Path,
    folder: str | Path,
    *,
    against: Checkpoint | Source | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    progress: Callable[[str, int], object] = lambda _problem, _total: None,
) -> Evaluation:
    """Answer every picture in class folders and count the right answers.

        evaluation = levit_deploy.evaluate("ckpt.onnx", "val/", against="ckpt.pth")
        print(evaluation.top1, evaluation.original_top1, len(evaluation.disagreements))

    There is one folder a class. If the folders are named like the artifact's labels, they are those
    classes, otherwise the classes in the order of the folders' names.

    Args:
        artifact: The path of a file that was exported or fused.
        folder: The folder of the class folders.
        against: The checkpoint that the artifact was made from: the result of ``load``, or the path
            of one that needs no options. It answers the same inputs in float32.
        batch_size: The number of pictures run at once, as for ``predict``.
        threads: The threads of the runtime.
        progress: Called for each picture with its problem or '', and the number of pictures.

    Raises:
        InputError: The folders are not the artifact's classes, or no picture can be used.
        ArtifactError: The file is not an artifact, or not one of the checkpoint's shape.
        BackendError: The runtime crashes, hangs or runs out of memory.
    """
    folder = Path(folder)
    checkpoint = None
    if against is not None:
        from levit_deploy.checkpoint import checkpoint_of

        checkpoint = checkpoint_of(against)
    with open_isolated(Path(artifact), threads) as opened:
        processor = read_processor(opened)
        paths = list(walk_pictures(folder))  # once: the folder may change meanwhile
        classes = _classes(folder, paths, processor)
        original = None if checkpoint is None else _original(checkpoint, opened, processor)
        n, hits, original_hits, disagreements = 0, np.zeros(2), np.zeros(2), []
        with closing(scored(opened, processor, paths, batch_size)) as pictures:
            for picture in pictures:
                progress(picture.problem, len(paths))
                if picture.input is None or picture.scores is None:
                    continue
                expected = classes[picture.path.relative_to(folder).parts[0]]
                answers, others = _answers(picture.input, picture.scores, processor, original)
                n += 1
                hits += _hits(answers, expected)
                original_hits += _hits(others, expected)
                if others and answers[0].index != others[0].index:
                    disagreements.append(
                        Disagreement(picture.path, expected, answers[0], others[0])
                    )
    top1, top5 = (100 * hits / n).tolist()
    original_top1, original_top5 = (100 * original_hits / n).tolist()
    best_top1 = top1 if original is None else original_top1
    return Evaluation(
        path=opened.path,
        format=opened.format,
        sha256=opened.sha256,
        precision=opened.metadata.get("precision", "fp32"),
        checkpoint_sha256=opened.metadata["checkpoint_sha256"],
        classes=classes,
        pictures=n,
        skipped=len(paths) - n,
        top1=top1,
        top5=top5,
        original_top1=None if original is None else original_top1,
        original_top5=None if original is None else original_top5,
        disagreements=tuple(disagreements),
        preprocessing=processor.transform.preprocessing,
        doubts=tuple(_doubts(opened, processor.labels, classes, best_top1, checkpoint)),
    )


def _answers(
    image: Images, scores: FloatArray, processor: Processor, original: Run | None
) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
    """The best answers of the artifact, and of its original if there is one."""
    answers = best(scores, processor.labels, TOP_K, logits=processor.gives_logits)
    if original is None:
        return answers, ()
    logits = original(processor.to_floats(image[None]))[0]
    return answers, best(logits, processor.labels, TOP_K, logits=True)


def _doubts(
    artifact: Artifact,
    labels: Sequence[str],
    classes: dict[str, int],
    top1: float,
    checkpoint: Checkpoint | None,
) -> Iterator[str]:
    if doubt := doubtful(top1):
        yield doubt
    if not labelled(classes, labels):
        why = "they are not named like its labels" if labels else "its labels are not known"
        pairs = [f"{name} for {labels[i] if labels else i}" for name, i in classes.items()]
        yield (
            "the folders are taken for the artifact's classes in the order of their names, as "
            f"{why}: {_some(pairs)}"
        )
    if checkpoint is not None and artifact.metadata["checkpoint_sha256"] != checkpoint.sha256:
        yield (
            f"{artifact.path} was made from another file than {checkpoint.path}, by its metadata, "
            "so this may not be its original"
        )


def _classes(folder: Path, paths: Sequence[Path], processor: Processor) -> dict[str, int]:
    """The class index of each folder with pictures."""
    names = set()
    for path in paths:
        name, *below = path.relative_to(folder).parts
        if not below and not is_unlisted(path):
            raise InputError(
                f"{path} is not in a class folder. Expected every picture in {folder} to be in the "
                "folder of its class. Move it, or take it out."
            )
        names.add(name)
    if not names:
        raise no_pictures(folder)
    num_classes, labels = processor.config.num_classes, processor.labels
    classes = class_indices(names, num_classes, labels)
    if classes is None:
        named = f", labelled {_some(labels)}" if labels else ", without labels"
        known = labelled(names, labels)
        strangers = _some(sorted(names - known.keys()))
        some = f" Of them, {strangers} are not labels." if known and strangers else ""
        raise InputError(
            f"{folder} has {len(names)} folders with pictures, {_some(sorted(names))}, and the "
            f"artifact has {num_classes} classes{named}.{some} Expected folders named like its "
            "labels, or as many folders as classes, in their order. Rename, add or remove folders."
        )
    return classes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _original(checkpoint: Checkpoint, artifact: Artifact, processor: Processor) -> Run:
    """The checkpoint's own network in float32, with the artifact's head."""
    from levit_deploy.verification.original import original_of

    shape, expected = _shape(processor.config), _shape(checkpoint.config)
    if shape != expected:
        raise ArtifactError(
            f"{artifact.path} takes images of {shape[:-1]}, channels, height and width, and has "
            f"{shape[-1]} classes; {checkpoint.path} takes {expected[:-1]} and has {expected[-1]}. "
            "Give the checkpoint it was made from, with the same options."
        )
    return original_of(checkpoint, artifact).run


def _shape(config: LeViTConfig) -> tuple[int, ...]:
    return (config.in_channels, *config.image_size, config.num_classes)


def _hits(answers: Sequence[Answer], expected: int) -> FloatArray:
    """Whether the first answer is right, and whether any is."""
    indices = [answer.index for answer in answers]
    return np.array([expected in indices[:1], expected in indices], np.float32)
