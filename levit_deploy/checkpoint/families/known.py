"""What tensors do not tell, and the code or the config that saved them does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from levit_deploy.config import Grid, LeViTConfig
from levit_deploy.errors import CheckpointError
from levit_deploy.interface import PROBLEM_TYPES, SINGLE_LABEL
from levit_deploy.pictures.labels import in_order
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing


@dataclass(frozen=True)
class Known:
    """None where code and config are silent.

    ``image_size`` (height, width) must fit the tensors; ``usual_image_size`` is taken where it
    does. ``attention_activation`` is also that of the subsamplings, ``stride`` theirs.
    ``averages_heads`` says that the code averages two heads when it evaluates. ``stated`` is what
    a config says of the architecture, in the terms of ``facts``, and must agree with the tensors.
    ``preprocessing`` is the convention where the config is silent, ``picture_size`` (height, width)
    what a picture comes out as by the config itself; ``labels`` name the classes; ``problem_type``
    is one of transformers' words for what the logits mean.
    """

    activation: str | None = None
    stem_activation: str | None = None
    attention_activation: str | None = None
    bias_over_scale: bool = False
    averages_heads: bool = True
    stride: int | None = None
    image_size: Grid | None = None
    usual_image_size: Grid | None = None
    stated: Mapping[str, object] = field(default_factory=dict)
    preprocessing: Preprocessing = IMAGENET
    picture_size: Grid | None = None
    labels: tuple[str, ...] = ()
    problem_type: str = SINGLE_LABEL


NOTHING = Known()


def stated_labels(names: object) -> tuple[str, ...]:
    """The labels in a config, as ``labels.in_order`` reads them; none where it is silent.

    Nor where it only counts the classes, LABEL_0, LABEL_1 and so on, as transformers does. Raises
    CheckpointError where they are no labels.
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
    """What a config of transformers says that the logits mean; single labels where it is silent.

    Raises CheckpointError where that is nothing known.
    """
    problem_type = config.get("problem_type") or SINGLE_LABEL
    if problem_type not in PROBLEM_TYPES:
        raise CheckpointError(
            f"config.json says that the problem_type is {problem_type!r}. Expected one of "
            f"{', '.join(PROBLEM_TYPES)}. Correct it, or give the weights file alone."
        )
    return str(problem_type)


def facts(config: LeViTConfig) -> dict[str, object]:
    """What both a config and the tensors tell, by the words for it."""
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
    """Raise CheckpointError where a config states what the tensors do not show."""
    found = facts(config)
    for name, stated in known.stated.items():
        if stated != found[name]:
            raise CheckpointError(
                f"config.json says {name}: {_shown(stated)}; the tensors say "
                f"{_shown(found[name])}. Expected a config of this network. Correct it, or give "
                "the weights file alone."
            )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
