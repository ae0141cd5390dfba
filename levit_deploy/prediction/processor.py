"""The input and output of an artifact, by its metadata."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import ArtifactError, BackendError, UsageError
from levit_deploy.interface import Interface, why_no_softmax
from levit_deploy.pictures.transform import Transform
from levit_deploy.provenance import Provenance
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.text import counted


@dataclass(frozen=True)
class Processor:
    """How a picture becomes an artifact's input, and how its output reads.

    ``labels`` has a name for each class, or none. By ``interface``, the artifact takes the cropped
    pixels as bytes, or normalised floats.
    """

    config: LeViTConfig
    transform: Transform
    labels: tuple[str, ...]
    interface: Interface

    @property
    def width(self) -> int:
        """The numbers of an answer: classes, or the width of a vector."""
        (shape,) = self.interface.outputs(self.config).values()
        return shape[0]

    @property
    def gives_logits(self) -> bool:
        """Whether the artifact's output still needs a softmax."""
        return self.interface.output == "logits"

    def to_input(self, picture: Image.Image) -> Images:
        """The artifact's input for a picture, without the batch.

        It is uint8 (height, width, channels) or float32 (channels, height, width). Raises
        UnfitPictureError if the picture cannot be used.
        """
        pixels = self.transform.fit(picture)
        return pixels if self.interface.input == "uint8" else self.transform.normalise(pixels)

    def to_floats(self, inputs: Images) -> Images:
        """The original's inputs for those of the artifact: normalised floats."""
        return inputs if self.interface.input == "float32" else self.transform.normalise(inputs)


def read_processor(artifact: Artifact) -> Processor:
    """Read the metadata of an artifact that classifies pictures.

    Raises ArtifactError if it is missing, damaged or another artifact's, or if the network does not
    take pictures or does not have one right class.
    """
    processor, problem_type = _read(artifact)
    if processor.interface.output == "features":
        raise ArtifactError(
            f"{artifact.path} gives features, and no classes. Write them with levit-deploy predict "
            "--embeddings FILE, or export logits."
        )
    if not processor.interface.has_classes:
        raise ArtifactError(
            f"{artifact.path} gives feature maps, and no classes. Run it from your own code, or "
            "export logits."
        )
    if reason := why_no_softmax(problem_type, processor.config.num_classes):
        raise ArtifactError(
            f"{artifact.path} has no most probable class: {reason}. Run it from your own code."
        )
    return processor


def read_embedder(artifact: Artifact) -> Processor:
    """Read the metadata of an artifact that gives the features of pictures.

    Raises UsageError if it gives something else, and ArtifactError as ``read_processor`` does.
    """
    processor, _ = _read(artifact)
    if processor.interface.output != "features":
        raise UsageError(
            f"{artifact.path} gives {processor.interface.output}, and --embeddings writes "
            "features. Export it with --output-type features."
        )
    return processor


def _read(artifact: Artifact) -> tuple[Processor, str]:
    """What every artifact for pictures states, and its problem type."""
    try:
        provenance = Provenance.from_metadata(artifact.metadata)
        config, interface = provenance.config, provenance.interface
        shape = interface.image_shape(config)
        if len(provenance.labels) not in (0, config.num_classes):
            raise ValueError(
                f"it has {counted(len(provenance.labels), 'label')} for {config.num_classes} "
                "classes"
            )
        if artifact.image_shape != shape:
            raise ValueError(f"it takes images of {artifact.image_shape}, and says {shape}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"The metadata of {artifact.path} does not state its preprocessing or its classes "
            f"({type(error).__name__}: {error}). Expected an artifact that levit-deploy wrote. "
            "Export it again, or upgrade if a later version wrote it."
        ) from error
    if reason := provenance.transform.why_no_pictures:
        raise ArtifactError(
            f"{artifact.path} cannot be given pictures: {reason}. Run it from your own code."
        )
    processor = Processor(config, provenance.transform, provenance.labels, interface)
    return processor, provenance.problem_type


def run(artifact: Artifact, processor: Processor, inputs: Images) -> FloatArray:
    """Run at most a fixed batch of inputs, which is filled up: (n, ...) -> (n, width).

    Raises BackendError if the output has another shape, or is not finite.
    """
    n = len(inputs)
    if artifact.batch_size is not None and n < artifact.batch_size:
        filling = np.zeros((artifact.batch_size - n, *inputs.shape[1:]), inputs.dtype)
        inputs = np.concatenate([inputs, filling])
    output = artifact.run(inputs)
    if output.shape != (len(inputs), processor.width):
        raise BackendError(
            f"{artifact.path} gave an output of shape {output.shape} for "
            f"{counted(len(inputs), 'picture')}. Expected {(len(inputs), processor.width)}. Check "
            "it with levit-deploy verify."
        )
    if not np.isfinite(output[:n]).all():
        raise BackendError(
            f"{artifact.path} gave NaN or infinity. Expected finite numbers. Check it with "
            "levit-deploy verify."
        )
    return output[:n]
