"""Facts about a checkpoint from its family's code or config, which its tensors cannot tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from levit_deploy.checkpoint.assumption import Assumption
from levit_deploy.config import Grid, LeViTConfig
from levit_deploy.errors import CheckpointError
from levit_deploy.interface import PROBLEM_TYPES, SINGLE_LABEL
from levit_deploy.pictures.labels import in_order
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing


@dataclass(frozen=True, kw_only=True)
class Known:
    """The facts known. A field is None or has its default if code and config are silent.

    Attributes:
        activation: That of the MLPs, and of the parts without one of their own.
        activation_source: The place that states it, if it is not ``source``.
        usual_activation: That of the MLPs if nothing states one, and the reason to assume it.
        variants_activation: Whether a published variant's shapes tell its activation.
        attention_activation: That of the attentions and the subsamplings.
        bias_over_scale: How often attention biases are divided by the scale of the scores.
        averages_heads: Whether the family's code averages two heads in evaluation.
        stride: That of every subsampling.
        image_size: The (height, width) trained at. It must fit the tensors.
        usual_image_size: A size that is taken if it fits the tensors.
        eps: That of BatchNorm and LayerNorm.
        stated: The config's facts on the architecture, in the terms of ``facts``. They must agree
            with the tensors.
        preprocessing: The config's, or the family's convention.
        picture_size: The (height, width) of a picture after the config's preprocessing.
        problem_type: The meaning of the logits, one of PROBLEM_TYPES.
        assumed: The family's assumptions.
        source: The place of the facts that a file states, for messages.
        told: The facts that were read from ``source``, in words.
    """

    activation: str | None = None
    activation_source: str = ""
    usual_activation: tuple[str, str] = ("hardswish", "as in every LeViT published")
    variants_activation: bool = False
    stem_activation: str | None = None
    attention_activation: str | None = None
    bias_over_scale: int = 0
    averages_heads: bool = True
    stride: int | None = None
    image_size: Grid | None = None
    usual_image_size: Grid | None = None
    eps: float | None = None
    stated: Mapping[str, object] = field(default_factory=dict)
    preprocessing: Preprocessing = IMAGENET
    picture_size: Grid | None = None
    labels: tuple[str, ...] = ()
    problem_type: str = SINGLE_LABEL
    assumed: tuple[Assumption, ...] = ()
    source: str = "config.json"
    told: tuple[str, ...] = ()


NOTHING = Known()


def stated_labels(names: object) -> tuple[str, ...]:
    """The labels in a config, as ``labels.in_order`` reads them, or none.

    LABEL_0, LABEL_1 and so on, transformers' placeholders, count as none. Raises CheckpointError
    for anything but labels.
    """
    try:
        labels = in_order(names or ())
    except ValueError as error:
        raise CheckpointError(
            f"config.json has {error}. Expected the name of each class. Correct it, or give the "
            "weights file alone."
        ) from error
    return () if all(label == f"LABEL_{i}" for i, label in enumerate(labels)) else labels


def stated_problem_type(config: Mapping[str, Any]) -> str:
    """The ``problem_type`` in a config of transformers. If it has none, single labels.

    Raises CheckpointError for an unknown one.
    """
    problem_type = config.get("problem_type") or SINGLE_LABEL
    if problem_type not in PROBLEM_TYPES:
        raise CheckpointError(
            f"config.json says that the problem_type is {problem_type!r}. Expected one of "
            f"{', '.join(PROBLEM_TYPES)}. Correct it, or give the weights file alone."
        )
    return str(problem_type)


def facts(config: LeViTConfig) -> dict[str, object]:
    """The facts that both a config and the tensors can tell, by name."""
    return {
        "classes": config.num_classes,
        "input channels": config.in_channels,
        "classifier heads": 2 if config.distillation else 1,
        "stem widths": config.stem_dims,
        "stage widths": tuple(stage.dim for stage in config.stages),
        "blocks a stage": tuple(stage.depth for stage in config.stages),
        "attention heads a stage": tuple(stage.num_heads for stage in config.stages),
    }


def require_agreement(config: LeViTConfig, known: Known) -> None:
    """Raise CheckpointError if a config contradicts the tensors."""
    shown = facts(config)
    for name, stated in known.stated.items():
        if name == "classes" and config.headless and not known.source.endswith(".json"):
            continue  # a run's head may be left out, or another module
        if stated != shown[name]:
            raise CheckpointError(
                f"{known.source} says {name}: {_text(stated)}, but the tensors say "
                f"{_text(shown[name])}. Expected the facts of this network. {remedy(known.source)}"
            )


def remedy(source: str) -> str:
    """What to do about a source that contradicts the tensors."""
    if source.endswith(".yaml"):  # it is read whenever it lies beside the weights
        return f"Correct {source}, or move the weights to another folder."
    if source.endswith(".json"):
        return f"Correct {source}, or give the weights file alone."
    return "Correct it, or save the state dict alone."


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
