"""The original network that an artifact is held to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from levit_deploy.arrays import FloatArray, Images, rows
from levit_deploy.checkpoint import Checkpoint
from levit_deploy.choices import HEADS, known
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.interface import Interface
from levit_deploy.model import LeViT
from levit_deploy.passes.heads import HEAD_PASSES
from levit_deploy.passes.order import OUTPUT_PASSES
from levit_deploy.pictures.transform import Transform
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.verification.answers import Answers


@dataclass(frozen=True, kw_only=True)
class Original:
    """The original network, with the output that an artifact gives.

    ``model`` is float32 and in evaluation mode. Its only output are the logits of ``head``, 'mean',
    'class' or 'distill', or features or feature maps if that is 'none'. ``transform`` makes its
    inputs of pictures. ``block_names`` has the checkpoint's names of the blocks, by canonical name.
    ``answers`` remembers what ``model`` computed in the proofs of this object.
    """

    model: LeViT
    config: LeViTConfig
    head: str
    transform: Transform
    block_names: Mapping[str, str] = field(default_factory=dict)
    answers: Answers = field(default_factory=dict)

    def run(self, images: Images) -> FloatArray:
        """The answers in float32, as the original's author computes them: a row for each image."""
        with torch.inference_mode():
            given = self.model(torch.from_numpy(images))
        outputs = given if isinstance(given, tuple) else (given,)
        return rows([output.numpy() for output in outputs])


class Originals:
    """The originals of several proofs, which remember their answers.

    Give one object to every ``prove`` of many artifacts of a checkpoint. Each computes the answers
    of the original that no earlier one has: those in float64 once for all, those in the artifact's
    precision once for each precision. A later proof with the same head, input and output only runs
    its artifact. Its figures are those of a proof by itself. Let go of the object to free them.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, str | None, str], tuple[Checkpoint, Original]] = {}

    def of(self, checkpoint: Checkpoint, artifact: Artifact) -> Original:
        """As ``original_of``, but the same object for the same checkpoint, head and output."""
        return self.of_file(checkpoint, artifact.path, artifact.metadata)

    def of_file(self, checkpoint: Checkpoint, path: Path, metadata: Mapping[str, str]) -> Original:
        """As ``of``, for an artifact that may still be unwritten."""
        # an id is the checkpoint's as long as this holds it
        output = Interface.from_metadata(metadata).output
        key = (id(checkpoint), metadata.get("head"), output)
        if key not in self._made:
            self._made[key] = checkpoint, _original(checkpoint, path, metadata)
        return self._made[key][1]


def original_of(checkpoint: Checkpoint, artifact: Artifact) -> Original:
    """The network that an artifact is held to, with the output or head that its metadata names.

    Raises ArtifactError if the checkpoint has no such head, and UsageError if its author's logits
    are of another head.
    """
    return _original(checkpoint, artifact.path, artifact.metadata)


def _original(checkpoint: Checkpoint, path: Path, metadata: Mapping[str, str]) -> Original:
    head = metadata.get("head", checkpoint.head)
    output = Interface.from_metadata(metadata).output
    chosen = known(head, HEADS)
    if output in OUTPUT_PASSES:
        head, model = "none", OUTPUT_PASSES[output](checkpoint.model)
    elif checkpoint.config.headless:
        raise ArtifactError(
            f"{path} gives {output}, and {checkpoint.path} is a network without a head. "
            "Give the checkpoint it was made from."
        )
    elif head == checkpoint.head:
        model = checkpoint.model
    elif chosen is not None and checkpoint.config.distillation:
        model = HEAD_PASSES[chosen](checkpoint.model)
    else:
        raise ArtifactError(
            f"{path} computes the logits of the head {head!r}, the checkpoint only those "
            f"of {checkpoint.head!r}. Give the checkpoint it was made from."
        )
    _require_checked_head(checkpoint, head)
    return Original(
        model=model,
        config=checkpoint.config,
        head=head,
        transform=checkpoint.transform,
        block_names=checkpoint.block_names,
    )


def _require_checked_head(checkpoint: Checkpoint, head: str) -> None:
    checked = checkpoint.checked
    if checked is None or not checkpoint.config.distillation or head in (checked.head, "none"):
        return
    raise UsageError(
        f"The logits in {checked.path} are those of the head {checked.head!r}, and the artifact's "
        f"are of {head!r}. Export with --head {checked.head}, or give the author's logits of that "
        "head."
    )
