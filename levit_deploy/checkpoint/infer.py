"""Infer the architecture from the shapes of a checkpoint's tensors."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from levit_deploy.checkpoint.assumption import Assumption
from levit_deploy.checkpoint.families.known import NOTHING, Known, require_agreement
from levit_deploy.checkpoint.given import NOTHING_GIVEN, Given
from levit_deploy.checkpoint.image_size import TokenEvidence, infer_image_size
from levit_deploy.config import (
    MAX_TOKENS,
    NORMS,
    TIMM_VARIANTS,
    Downsample,
    LeViTConfig,
    Stage,
)
from levit_deploy.errors import CheckpointError

State = Mapping[str, Tensor]
_BLOCK = re.compile(r"blocks\.([0-9]{1,4})\.")


@dataclass(frozen=True)
class Inferred:
    """An architecture, and the assumptions made."""

    config: LeViTConfig
    assumed: tuple[Assumption, ...]


@dataclass(frozen=True)
class _Trunk:
    stages: list[Stage]
    downsamples: list[Downsample]  # with strides still to be inferred
    tokens: TokenEvidence


def infer_config(state: State, known: Known = NOTHING, given: Given = NOTHING_GIVEN) -> Inferred:
    """Infer the config of a training-form state dict under canonical names.

    A fact that is given counts before one that is known, and the tensors before both. The config
    returned has the image size trained at. Raises CheckpointError for a missing tensor, for shapes
    that fit no LeViT, and for a config that contradicts the tensors; UsageError if
    ``given.trained_size`` does.
    """
    stem = _stem_dims(state)
    trunk = _trunk(state, len(stem))
    trained = infer_image_size(trunk.tokens, known, given)
    eps = given.eps or known.eps
    two_heads = any(key.startswith("head_dist.") for key in state)
    try:
        config = LeViTConfig(
            image_size=trained.image_size,
            in_channels=_shape(state, "patch_embed.0", 4)[1],
            num_classes=_num_classes(state, two_heads),
            stem_dims=stem,
            stages=tuple(trunk.stages),
            downsamples=tuple(
                dataclasses.replace(down, stride=stride)
                for down, stride in zip(trunk.downsamples, trained.strides, strict=True)
            ),
            distillation=two_heads,
            activation=given.activation or known.activation or known.usual_activation[0],
            stem_activation=known.stem_activation,
            attention_activation=known.attention_activation,
            norm=_norm(state),
            head_batchnorm=_head_batchnorm(state),
            bias_over_scale=known.bias_over_scale,
            **({} if eps is None else {"bn_eps": eps, "ln_eps": eps}),
        )
    except ValueError as error:
        raise CheckpointError(f"The shapes of the tensors fit no LeViT: {error}.") from error
    require_agreement(config, known)
    by_shapes = known.variants_activation and config.variant in TIMM_VARIANTS
    if by_shapes and given.activation is None and known.activation is None:
        config = config.replace(activation=TIMM_VARIANTS[config.variant].activation)
    assumed = [
        *_assumed_eps(config, eps),
        *_assumed_activation(config, known, given, by_shapes),
        *known.assumed,
    ]
    if config.distillation and not known.averages_heads:
        assumed.append(
            Assumption(
                "the logits are the mean of both heads",
                "as in the paper; the original code returns both",
            )
        )
    return Inferred(config, (*assumed, *trained.assumed))


def _stem_dims(state: State) -> tuple[int, ...]:
    dims = [_shape(state, "patch_embed.0", 4)[0]]
    while _weight(state, layer := f"patch_embed.{2 * len(dims)}"):  # activations between
        dims.append(_shape(state, layer, 4)[0])
    return tuple(dims)


def _trunk(state: State, stem_depth: int) -> _Trunk:
    stages: list[Stage] = []
    downsamples: list[Downsample] = []
    tokens: list[int] = []
    names: list[str] = []
    blocks = {int(block[1]) for block in map(_BLOCK.match, state) if block}
    for i in range(max(blocks, default=-1) + 1):
        name = f"blocks.{i}"
        if _weight(state, f"{name}.m.qkv"):
            stage, area = _attention(state, f"{name}.m", _mlp_dim(state, i + 1))
            if len(stages) == len(downsamples):
                stages.append(stage)
                tokens.append(area)
            else:
                first = stages[-1]
                stages[-1] = dataclasses.replace(first, depth=first.depth + 1)
        elif _weight(state, f"{name}.kv"):
            if len(stages) == len(downsamples):
                raise CheckpointError(
                    f"{name} subsamples, but no attention block comes before it. Expected at "
                    "least one in every stage."
                )
            downsamples.append(_downsample(state, name, _mlp_dim(state, i + 1)))
            names.append(name)
        elif not _mlp_dim(state, i):
            raise CheckpointError(
                f"{name} is neither attention, nor subsampling, nor an MLP. Expected one of "
                f"{name}.m.qkv.c.weight, {name}.kv.c.weight and {name}.m.0.c.weight. Save the "
                "whole model.state_dict()."
            )
    if not stages or len(stages) == len(downsamples):
        raise CheckpointError(
            f"The checkpoint has {len(stages)} stages and {len(downsamples)} subsamplings. "
            "Expected it to start and end with attention (blocks.0.m.qkv.c.weight, ...). Save the "
            "whole model.state_dict()."
        )
    idxs = [state.get(f"{name}.attention_bias_idxs") for name in ("blocks.0.m", *names)]
    evidence = TokenEvidence(stem_depth, tuple(tokens), idxs[0], tuple(idxs[1:]))
    return _Trunk(stages, downsamples, evidence)


def _attention(state: State, name: str, mlp_dim: int) -> tuple[Stage, int]:
    """Read a stage of depth 1 and its number of tokens off its first attention block."""
    heads, tokens = _biases_shape(state, name)
    rows, dim = _shape(state, f"{name}.qkv", 2)
    values = _shape(state, f"{name}.proj.1", 2)[1]
    key_dim = _per_head(rows - values, 2 * heads, f"{name}.qkv", heads)
    value_dim = _per_head(values, heads, f"{name}.proj.1", heads)
    return Stage(
        dim=dim, depth=1, num_heads=heads, key_dim=key_dim, value_dim=value_dim, mlp_dim=mlp_dim
    ), tokens


def _downsample(state: State, name: str, mlp_dim: int) -> Downsample:
    heads = _biases_shape(state, name)[0]
    queries = _shape(state, f"{name}.q.1", 2)[0]
    key_dim = _per_head(queries, heads, f"{name}.q.1", heads)
    values = _shape(state, f"{name}.proj.1", 2)[1]
    value_dim = _per_head(values, heads, f"{name}.proj.1", heads)
    return Downsample(num_heads=heads, key_dim=key_dim, value_dim=value_dim, mlp_dim=mlp_dim)


def _biases_shape(state: State, name: str) -> tuple[int, ...]:
    """The number of heads and of tokens."""
    key = f"{name}.attention_biases"
    shape = _tensor_shape(state, key, 2)
    if shape[1] > MAX_TOKENS:
        raise CheckpointError(
            f"{key} is for {shape[1]} tokens. Expected at most {MAX_TOKENS}, as for a 1024x1024 "
            "image, so that the attention of one block fits into memory."
        )
    return shape


def _per_head(width: int, parts: int, layer: str, heads: int) -> int:
    if width < parts or width % parts:
        raise CheckpointError(
            f"The weight of {layer} does not divide among the {heads} heads of the "
            "attention_biases beside it. Expected the tensors of one network. Save its whole "
            "model.state_dict()."
        )
    return width // parts


def _mlp_dim(state: State, block: int) -> int:
    """The hidden width of an MLP block, or 0 for any other block."""
    layer = f"blocks.{block}.m.0"
    return _shape(state, layer, 2)[0] if _weight(state, layer) else 0


def _head_batchnorm(state: State) -> bool | None:
    """Whether the head has a BatchNorm, or None if it is as usual beside the trunk's layers."""
    heads = [key for key in state if key.startswith(("head.", "head_dist."))]
    has = any(".bn." in key for key in heads)
    return None if not heads or has == ("head" in NORMS[_norm(state)]) else has


def _num_classes(state: State, two_heads: bool) -> int:
    """The number of classes, 0 for a network without a head."""
    if not any(key.startswith(("head.", "head_dist.")) for key in state):
        return 0
    classes = _shape(state, "head", 2)[0]
    if two_heads and (others := _shape(state, "head_dist", 2)[0]) != classes:
        raise CheckpointError(
            f"The class head has {classes} classes, the distillation head {others}. Expected the "
            "same number, as logits of different classes cannot be averaged. Leave one head out of "
            "the state dict."
        )
    return classes


def _norm(state: State) -> str:
    """Tell the key of ``NORMS`` by the names in the stem and the first attention block."""
    if "blocks.0.m.norm.weight" in state:
        return "layernorm"
    if "patch_embed.0.c.weight" in state:
        return "batchnorm"
    return "batchnorm-in-attention" if "blocks.0.m.qkv.c.weight" in state else "none"


def _assumed_eps(config: LeViTConfig, eps: float | None) -> list[Assumption]:
    """The assumed eps of each kind of norm. It is 1e-5 in every family, so none is decisive."""
    if eps is not None:
        return []
    norms = {
        "BatchNorm": bool(NORMS[config.norm]) or config.batchnorm_in_head,
        "LayerNorm": config.norm == "layernorm",
    }
    return [
        Assumption(f"{norm} eps is {config.bn_eps}", "which no checkpoint stores")
        for norm, present in norms.items()
        if present
    ]


def _assumed_activation(
    config: LeViTConfig, known: Known, given: Given, by_shapes: bool
) -> list[Assumption]:
    """The assumed activation, or the one given if the file states another."""
    fact = f"the activation is {config.activation}"
    if given.activation is not None:
        if known.activation in (None, given.activation):
            return []
        source = known.activation_source or known.source
        reason = f"as --activation says, though {source} says {known.activation}"
    elif known.activation is not None:
        return []
    elif by_shapes:
        reason = f"as in timm's {config.variant}, whose shapes these are"
    else:
        reason = known.usual_activation[1]
    return [Assumption(fact, reason, decisive=True)]


def _weight(state: State, layer: str) -> str | None:
    """The name of a layer's weight, if there is one: plain, before a BatchNorm, or behind one."""
    names = (f"{layer}.weight", f"{layer}.c.weight", f"{layer}.l.weight")
    return next((name for name in names if name in state), None)


def _shape(state: State, layer: str, rank: int) -> tuple[int, ...]:
    """The shape of a layer's weight."""
    name = _weight(state, layer)
    if name is None:
        leaf = "l" if layer.startswith("head") else "c"
        raise _missing(f"{layer}.{leaf}.weight")
    return _tensor_shape(state, name, rank)


def _tensor_shape(state: State, key: str, rank: int) -> tuple[int, ...]:
    if key not in state:
        raise _missing(key)
    shape = tuple(state[key].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(
            f"{key} has the shape {shape}. Expected {rank} dimensions, none of them empty. Save "
            "the whole model.state_dict()."
        )
    return shape


def _missing(key: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint has no {key}. Every LeViT needs it. Save the whole model.state_dict(), or "
        "check that this is a LeViT's checkpoint."
    )
