"""The input and outputs of an artifact: images or bytes, and logits, features or feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from levit_deploy.choices import INPUTS, OUTPUTS, Input, Output, known

if TYPE_CHECKING:
    from levit_deploy.config import LeViTConfig

# the names of inputs and outputs
INPUT_NAME, PIXELS = "pixel_values", "pixels"
OUTPUT_NAME, PROBABILITIES = "logits", "probabilities"
COMPARED = {  # the numbers that a proof compares, in words
    "logits": "logits",
    "probabilities": "log-probabilities",
    "features": "features",
    "feature-maps": "feature maps",
}
SINGLE_LABEL = "single_label_classification"
# transformers' words for the meaning of logits (PreTrainedConfig.problem_type)
PROBLEM_TYPES = (SINGLE_LABEL, "multi_label_classification", "regression")


@dataclass(frozen=True)
class Interface:
    """The two ends of an artifact.

    ``input`` is 'float32', images that are normalised already, (batch, channels, height, width), or
    'uint8', pixels as a camera gives them, (batch, height, width, channels), normalised inside.
    ``output`` is 'logits' or 'probabilities', their softmax: float32 (batch, classes). Or it is
    'features', the pooled vector that the heads would see, (batch, width), or 'feature-maps', one
    (batch, channels, height, width) for each stage. These are also the words in the metadata.
    """

    input: Input = "float32"
    output: Output = "logits"

    @property
    def input_name(self) -> str:
        """The name of the input in an ONNX file."""
        return PIXELS if self.input == "uint8" else INPUT_NAME

    @property
    def has_classes(self) -> bool:
        """Whether the output tells classes apart."""
        return self.output in ("logits", "probabilities")

    def output_names(self, count: int) -> list[str]:
        """The names of ``count`` outputs in an ONNX file; all but feature maps have one."""
        if self.output == "feature-maps":
            return [f"stage{i + 1}" for i in range(count)]
        return [self.output]

    def outputs(self, config: LeViTConfig) -> dict[str, tuple[int, ...]]:
        """The shape of each output, without the batch, by name."""
        if self.output == "feature-maps":
            stages = zip(config.stages, config.resolutions, strict=True)
            shapes: list[tuple[int, ...]] = [(stage.dim, *grid) for stage, grid in stages]
        elif self.output == "features":
            shapes = [(config.stages[-1].dim,)]
        else:
            shapes = [(config.num_classes,)]
        return dict(zip(self.output_names(len(shapes)), shapes, strict=True))

    def image_shape(self, config: LeViTConfig) -> tuple[int, ...]:
        """The shape of one image, without the batch."""
        if self.input == "uint8":
            return (*config.image_size, config.in_channels)
        return (config.in_channels, *config.image_size)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Interface:
        """Read an artifact's metadata; the first artifacts had nothing to choose.

        Raises ValueError for an input or output that is not known.
        """
        takes, gives = metadata.get("input", "float32"), metadata.get("output", "logits")
        input, output = known(takes, INPUTS), known(gives, OUTPUTS)
        if input is not None and output is not None:
            return cls(input, output)
        raise ValueError(
            f"the input {takes!r} is not one of {', '.join(INPUTS)}, or the output {gives!r} not "
            f"one of {', '.join(OUTPUTS)}"
        )


def why_no_softmax(problem_type: str, num_classes: int) -> str:
    """The reason why a softmax of the logits gives no probabilities; empty if it does."""
    if problem_type != SINGLE_LABEL:
        return f"the checkpoint's config states a problem_type of {problem_type}"
    if num_classes == 1:
        return "the network has one class, of which a softmax is always 1"
    return ""


DEFAULT = Interface()
