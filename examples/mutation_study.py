"""Measure whether the proof refuses every wrong artifact and no right one.

    python examples/mutation_study.py --sabotaged 1000 --clean 500 --seed 0 [--precision fp16]
        [--input-type uint8] [--output-type probabilities] [--format litert]

exports random LeViTs as they should be and with sabotage of many kinds, and verifies each file. A
right artifact that is refused is a false alarm. How wrong a sabotaged one is, is found apart from
the proof: the sabotaged network is itself run in float64 and held against the original in float64,
on 64 images of each kind of input that the proof does not use, in units of the budget on those.
Above 1 the proof must refuse it. What no network in float64 can tell (an output in float16, a batch
baked in) breaks the contract and must always be refused. Numbers alone judge, by ``measure``: what
``verify`` sees in the graph besides is left out. ``sabotage(seed, number, kind)`` makes any one
case again. In reduced precision, ``--precision``, networks that overflow are counted and left out,
and those that the proof does not take, as they err too much themselves, are counted. With
``--input-type uint8`` or ``--output-type probabilities`` the artifacts have such ends, which are
sabotaged, too: everything is measured on bytes, and probabilities by their logarithms. ``--format``
has all artifacts in one format, with the sabotage that its writer takes. Without it, a fifth are
TorchScript, and the others ONNX.
"""

import argparse
import copy
import dataclasses
import math
import random
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from levit_deploy.choices import ACTIVATIONS, EPS, INPUTS, OUTPUTS, PRECISIONS, Precision
from levit_deploy.config import NORMS, Downsample, LeViTConfig, Stage
from levit_deploy.errors import ArtifactError, BackendError, CheckpointError, VerificationError
from levit_deploy.interface import DEFAULT, INPUT_NAME, PIXELS, PROBABILITIES, Interface
from levit_deploy.layout import to_spatial
from levit_deploy.model import (
    Attention,
    AttentionBias,
    AttentionSubsample,
    LeViT,
    MeanPool,
    Residual,
    ToTokens,
)
from levit_deploy.passes import to_plain_float64
from levit_deploy.passes.fuse_batchnorm import batchnorm_as_affine
from levit_deploy.passes.heads import HEAD_PASSES
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.pictures.transform import Transform
from levit_deploy.provenance import Provenance
from levit_deploy.report import to_json
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx_contract import check_contract
from levit_deploy.targets.onnx_opsets import OPSETS
from levit_deploy.targets.onnx_writer import FLOAT_EMITTERS, to_onnx
from levit_deploy.targets.target import ExportOptions, Target
from levit_deploy.targets.torchscript_writer import to_torchscript
from levit_deploy.verification.batches import BATCH_SIZES
from levit_deploy.verification.budget import (
    MAX_FLOOR_ULPS,
    RMSE_FLOOR_ULPS,
    Budget,
    budget,
    log_probabilities,
    rms,
)
from levit_deploy.verification.inputs import Case, pixel_cases, standard_cases
from levit_deploy.verification.measure import measure
from levit_deploy.verification.original import Original
from levit_deploy.verification.reference import Reference
from levit_deploy.verification.result import Verification
from levit_deploy.verification.steps import steps

UNPROVABLE = "the original is no measure"  # it overflows, or errs as much as its images differ
PROOF_SEED, OTHER_SEED, OTHER_IMAGES = 0, 1_000_003, 64
TOGETHER = 32  # images in a batch, where what is wrong is what they do to each other
BANDS = (0, 0.1, 0.5, 1, 2, 10, 100, math.inf)
NORM_EPS = (1e-3, 1e-5, 1e-6, 1e-12)
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ATTENTIONS = (Attention, AttentionSubsample)

# --- networks -------------------------------------------------------------------------------------


def random_config(rng: random.Random) -> LeViTConfig:
    dims = [8 * rng.randint(1, 6) for _ in range(rng.randint(1, 3))]

    def widths(*mlp_dims: int) -> dict[str, int]:
        return {
            "num_heads": rng.randint(1, 4),
            "key_dim": rng.choice([4, 8, 16]),
            "value_dim": rng.choice([8, 16, 32]),
            "mlp_dim": rng.choice(mlp_dims),
        }

    return LeViTConfig(
        image_size=(16 * rng.randint(1, 4), 16 * rng.randint(1, 4)),
        in_channels=rng.choice([1, 3]),
        num_classes=rng.choice([1, 2, 5, 10, 100]),
        stem_dims=(4, 8, dims[0]),
        stages=tuple(
            Stage(dim=dim, depth=rng.randint(1, 2), **widths(0, dim, 2 * dim)) for dim in dims
        ),
        downsamples=tuple(Downsample(**widths(0, 2 * dim)) for dim in dims[1:]),
        distillation=rng.random() < 0.5,
        activation=rng.choice(ACTIVATIONS),
        norm=rng.choice(["batchnorm", "batchnorm", *NORMS]),
        bias_over_scale=rng.random() < 0.2,
        bn_eps=rng.choice([1e-3, 1e-5, 1e-6]),
    )


@torch.no_grad()
def randomise(model: LeViT, rng: random.Random) -> LeViT:
    """Give every parameter and statistic a random value, within a few percent or over decades."""
    torch.manual_seed(rng.getrandbits(32))
    spread, gain = rng.choice([0.1, 0.3, 1.0, 1.5]), rng.choice([0.5, 1.0, 1.5])
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, *BATCHNORMS)):
            module.weight.normal_(0, spread / 2).exp_()
            module.bias.normal_(0, 0.3)
        if isinstance(module, BATCHNORMS):
            module.running_mean.normal_(0, spread)
            module.running_var.normal_(0, spread).exp_()
        elif isinstance(module, AttentionBias):
            module.biases.normal_(0, 1 / module.factor)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.normal_(0, gain * module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
    return model


def random_preprocessing(rng: random.Random) -> Preprocessing:
    """A mean and a standard deviation for each of three channels, or one for all."""
    return Preprocessing(
        mean=tuple(rng.uniform(0, 1) for _ in range(rng.choice([1, 3, 3]))),
        std=tuple(power(rng, -1.5, 0) for _ in range(rng.choice([1, 3, 3]))),
    )


class Normalise(nn.Module):
    """Bytes to what a network takes: uint8 (B, H, W, C) -> float64 (B, C, H, W)."""

    def __init__(self, mean: np.ndarray, std: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("std", torch.from_numpy(std))

    def forward(self, pixels: Tensor) -> Tensor:
        return ((pixels.double() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Draw:
    """Images of one kind of input, the original's float64 logits on them, and the budget."""

    images: np.ndarray
    expected: np.ndarray
    budget: Budget


@dataclass(frozen=True)
class Network:
    """An original with the head to prove, its plain form in float64, and what it computes.

    The plain form carries its ends (``with_ends``), ``provenance`` says what an artifact of it is.
    ``blocks`` are the names of its blocks in order; ``own`` are the images that the proof begins
    with, ``other`` ones that it never sees.
    """

    provenance: Provenance
    model: LeViT
    original: LeViT
    plain: LeViT
    blocks: tuple[str, ...]
    own: dict[str, Draw]
    other: dict[str, Draw]
    reference: Reference
    format: str | None = None  # of its artifacts, None for ONNX and TorchScript


# eight images at a time, as large networks need, would take small ones five times as long
@patch("levit_deploy.verification.reference.MOST_AT_ONCE", 1000)
def network(
    seed: int,
    number: int,
    precision: Precision = "fp32",
    interface: Interface = DEFAULT,
    format: str | None = None,
) -> Network:
    rng = random.Random(f"{seed}:{number}")
    config = random_config(rng)
    if interface.output == "probabilities":  # a single class has 1, whatever is computed
        config = config.replace(num_classes=max(2, config.num_classes))
    model = randomise(LeViT(config).eval(), rng)
    head = rng.choice(list(HEAD_PASSES)) if config.distillation else "mean"
    original = model if head == "mean" else HEAD_PASSES[head](model)
    preprocessing = random_preprocessing(rng)
    provenance = Provenance(
        checkpoint_sha256="",
        config=config,
        head=head,
        layout="",
        preprocessing=preprocessing,
        precision=precision,
        interface=interface,
    )
    of_bytes = provenance.transform.normalise if interface.input == "uint8" else None
    reference = Reference(original, precision, None, interface.output, of_bytes)
    own, other = (
        list(heard(reference, cases(provenance, seed))) for seed in (PROOF_SEED, OTHER_SEED)
    )
    draws = drawn(
        reference,
        [case.draw(case.sizes[0]) for case in own] + [case.draw(OTHER_IMAGES) for case in other],
    )
    return Network(
        provenance,
        model,
        original,
        with_ends(to_plain_float64(model, head), provenance),
        ((INPUT_NAME,) if of_bytes else ()) + tuple(step.name for step in steps(original)),
        {case.name: draw for case, draw in zip(own, draws[: len(own)], strict=True)},
        {case.name: draw for case, draw in zip(other, draws[len(own) :], strict=True)},
        reference,
        format,
    )


def with_ends(plain: LeViT, provenance: Provenance) -> LeViT:
    """Put the ends into a plain network, which ``run`` and ``write`` take for what is around it."""
    if provenance.interface.input == "uint8":
        plain.add_module(PIXELS, Normalise(*provenance.transform.statistics()))
    if provenance.interface.output == "probabilities":
        plain.add_module(PROBABILITIES, nn.Softmax(1))
    return plain


def cases(provenance: Provenance, seed: int) -> tuple[Case, ...]:
    if provenance.interface.input == "uint8":
        return pixel_cases(provenance.transform, seed)
    return standard_cases(provenance.config, seed)


def heard(reference: Reference, cases: Sequence[Case]) -> Iterator[Case]:
    """The cases, made quieter until the original does not overflow, as the proof would."""
    for case in cases:
        while (
            reference.precision == "fp16"
            and not np.isfinite(reference.own_logits(case.draw(OTHER_IMAGES))).all()
        ):
            if case.quieter is None:
                raise CheckpointError(f"overflows on {case.name}")
            case = case.quieter()
        yield case


def drawn(reference: Reference, images: list[np.ndarray]) -> list[Draw]:
    """Compute everything on all images at once, which is faster."""
    together, ends = np.concatenate(images), np.cumsum([len(part) for part in images])[:-1]
    expected = np.split(reference.logits(together), ends)
    originals = zip(*(np.split(o, ends) for o in reference.draws(together, 8)), strict=True)
    return [
        Draw(*part, budget(several, part[1], reference.precision))
        for part, several in zip(zip(images, expected, strict=True), originals, strict=True)
    ]


# --- sabotage -------------------------------------------------------------------------------------

# changes a float64 network, and returns the name of the module it has changed, "" for several
Sabotage = Callable[[LeViT, random.Random], str]


class InapplicableError(Exception):
    """This network has nothing to sabotage in this way."""


def on(
    kinds: Any, change: Callable[[Any, random.Random], Any], only: str | None = None
) -> Sabotage:
    """Change one module of some kinds, or put the module that ``change`` returns in its place."""

    def sabotage(model: LeViT, rng: random.Random) -> str:
        parts = [part for part in model.named_modules() if isinstance(part[1], kinds)]
        name, module = choose(rng, [part for part in parts if only in (None, part[0])])
        new = change(module, rng)
        if isinstance(new, nn.Module) and name:
            model.set_submodule(name, new)
        return name

    return sabotage


def in_one_number(change: Callable[[Any, random.Random], Any], *dims: int) -> Sabotage:
    """Change one number in a parameter, or table of biases, of so many dimensions."""

    def sabotage(model: LeViT, rng: random.Random) -> str:
        tensors = [*model.named_parameters(), *model.named_buffers()]
        name, tensor = choose(rng, [named for named in tensors if named[1].dim() in dims])
        numbers = tensor.view(-1)
        index = rng.randrange(len(numbers))
        numbers[index] = change(numbers[index], rng)
        return name

    return sabotage


def choose(rng: random.Random, items: list[Any]) -> Any:
    if not items:
        raise InapplicableError
    return rng.choice(items)


def power(rng: random.Random, low: float, high: float) -> float:
    return 10 ** rng.uniform(low, high)


class Function(nn.Module):
    """Any function as a module. No ONNX emitter knows it, so it is written as TorchScript."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class OverQueries(Function):
    """An attention whose softmax is over the queries instead of the keys."""

    def forward(self, x: Tensor) -> Tensor:
        with patch.object(Tensor, "softmax", lambda scores, dim: torch.softmax(scores, dim - 1)):
            return self.function(x)


class BatchMeanLeak(nn.Module):
    """Move every image's features a part of the way to the mean of its batch."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part * (x.mean(0) - x)


def emit_leak(g: Any, leak: BatchMeanLeak, x: Any, name: str) -> Any:
    minus = g.like("Mul", [x, g.scalar(-1.0)], f"{name}.minus")
    off = g.like("Add", [minus, g.mean(x, [0], f"{name}.mean")], f"{name}.off")
    return g.like("Add", [x, g.like("Mul", [off, g.scalar(leak.part)], f"{name}.part")], name)


FLOAT_EMITTERS[BatchMeanLeak] = emit_leak


def become(bn: Any, scale: Tensor, shift: Tensor) -> None:
    """Make a BatchNorm compute scale * x + shift."""
    bn.running_mean.zero_()
    bn.running_var.fill_(1 - bn.eps)
    bn.weight.copy_(scale)
    bn.bias.copy_(shift)


def batchnorm_twice(bn: Any, _rng: random.Random) -> None:
    scale, shift = batchnorm_as_affine(bn, "")
    become(bn, scale * scale, scale * shift + shift)


def swap_heads(model: LeViT, rng: random.Random) -> None:
    if model.head_dist is None:
        raise InapplicableError
    one, two = model.head, model.head_dist
    model.head, model.head_dist = rng.choice([(two, one), (one, copy.deepcopy(one))])


NO_SOFTMAXES = (lambda x: x, lambda x: x.log_softmax(1), torch.sigmoid)
TURNED_TOKENS = (lambda x: x.mT.flatten(2).mT, lambda x: x.flip(2).flatten(2).mT)


def another_activation(own: nn.Module, rng: random.Random) -> nn.Module:
    return rng.choice(
        [
            Function(functional.relu),
            Function(functional.hardsigmoid),
            Function(lambda x: x * (x / 5 + 0.5).clamp(0, 1)),
            Function(lambda x: x * (1.702 * x).sigmoid()),
            *(kind() for kind in (nn.Hardswish, nn.SiLU, nn.GELU) if kind is not type(own)),
        ]
    )


def transpose(linear: nn.Linear, _rng: random.Random) -> None:
    side = min(linear.weight.shape)
    square = linear.weight[:side, :side]
    square.copy_(square.T.clone())


def swap_q_and_k(attention: Attention, _rng: random.Random) -> None:
    for parameter in (attention.qkv.weight, attention.qkv.bias):
        rows = parameter.unflatten(0, (attention.num_heads, -1))
        q, k, v = rows.split([attention.key_dim, attention.key_dim, attention.value_dim], 1)
        parameter.copy_(torch.cat([k, q, v], 1).flatten(0, 1))


def rounded(model: LeViT, rng: random.Random) -> None:
    """To bfloat16's bits, to those of float16 and TF32, or to any number up to float32's."""
    bits = rng.choice([8, 11, rng.randint(12, 24), rng.randint(12, 24)])
    for parameter in model.parameters():
        fraction, exponent = torch.frexp(parameter)
        parameter.copy_(torch.ldexp((fraction * 2.0**bits).round() / 2.0**bits, exponent))


def leak_before(block: nn.Module, rng: random.Random) -> nn.Module:
    part = power(rng, -8, 0)
    other = rng.choice([lambda x: x[:1], lambda x: x.roll(1, 0), lambda x: x.mean(0)])
    return nn.Sequential(Function(lambda x: x + part * (other(x) - x)), block)


def wrong_from_some_place_on(head: nn.Module, rng: random.Random) -> nn.Module:
    part, first = power(rng, -8, 0), rng.randrange(1, max(BATCH_SIZES))  # the last the proof fills
    late = Function(lambda x: x + part * x * (torch.ones_like(x).cumsum(0) > first))
    return nn.Sequential(late, head)


def add(model: LeViT, function: Callable[[Tensor], Tensor]) -> None:
    model.head = nn.Sequential(model.head, Function(function))


def one_channel_off(pixels: Normalise, rng: random.Random) -> None:
    rng.choice([pixels.mean, pixels.std])[rng.randrange(len(pixels.mean))] *= 1 + power(rng, -8, 1)


def swap_channels(pixels: Normalise, rng: random.Random) -> None:
    statistic = choose(rng, [s for s in (pixels.mean, pixels.std) if len(s.unique()) > 1])
    i, j = rng.sample(range(len(statistic)), 2)
    statistic[[i, j]] = statistic[[j, i]]


def scale_otherwise(pixels: Normalise, rng: random.Random) -> None:
    """Divide bytes not by 255 but by 1, by 256, or twice."""
    times = rng.choice([1, 256, 255**2]) / 255
    pixels.mean.mul_(times)
    pixels.std.mul_(times)


def the_normalisation(model: LeViT) -> Normalise:
    if not hasattr(model, PIXELS):
        raise InapplicableError
    return model.get_submodule(PIXELS)


def pad_with_black(model: LeViT, _rng: random.Random) -> None:
    """Fold the mean into the first convolution: exact, but for the borders, which it pads."""
    pixels, first = the_normalisation(model), model.patch_embed[0]
    first.bias.sub_((first.weight.sum((2, 3)) * (pixels.mean / pixels.std)).sum(1))
    pixels.mean.zero_()


def reverse_channels(model: LeViT, _rng: random.Random) -> None:
    """Take blue, green and red for red, green and blue."""
    pixels, first = the_normalisation(model), model.patch_embed[0]
    for numbers, dim in ((pixels.mean, 0), (pixels.std, 0), (first.weight, 1)):
        numbers.copy_(numbers.flip(dim))


BEFORE_THE_PASSES: dict[str, Sabotage] = {
    "bias table stale": on(
        AttentionBias,
        lambda m, rng: m.biases.add_(power(rng, -8, 1) * torch.randn_like(m.biases)),
    ),
    "bias table shifted": on(AttentionBias, lambda m, _: m.biases.copy_(m.biases.roll(1, 1))),
    "bias table transposed": on(
        AttentionBias,
        lambda m, _: m.biases.copy_(m.biases.unflatten(1, m.grid).mT.flatten(1)),
    ),
    "eps of one norm": on(
        (nn.LayerNorm, *BATCHNORMS),
        lambda m, rng: setattr(m, "eps", rng.choice([e for e in NORM_EPS if e != m.eps])),
    ),
    "BatchNorm left out": on(
        BATCHNORMS,
        lambda m, _: become(m, torch.ones_like(m.bias), torch.zeros_like(m.bias)),
    ),
    "BatchNorm fused twice": on(BATCHNORMS, batchnorm_twice),
    "heads swapped, or one for both": on(LeViT, swap_heads),
    "scale missing": on(ATTENTIONS, lambda m, _: setattr(m.scale, "factor", 1.0)),
    "scale twice": on(ATTENTIONS, lambda m, _: setattr(m.scale, "factor", m.scale.factor**2)),
    "block skipped": on(Residual, lambda _m, _: nn.Identity()),
    "residual dropped": on(Residual, lambda m, _: m.m),
    "another activation": on((nn.Hardswish, nn.SiLU, nn.GELU), another_activation),
    "GELU by tanh": on(
        nn.GELU,
        # as torch's own, which TorchScript saves but cannot load
        lambda _m, _: Function(
            lambda x: x / 2 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())
        ),
    ),
    "softmax over queries": on(ATTENTIONS, lambda m, _: OverQueries(m)),
    "one token not pooled": on(MeanPool, lambda _m, _: Function(lambda x: x[:, 1:].mean(1))),
    "tokens in another order": on(ToTokens, lambda _m, rng: Function(rng.choice(TURNED_TOKENS))),
    "stem kernel turned": on(
        nn.Conv2d,
        lambda m, rng: m.weight.copy_(rng.choice([m.weight.mT, m.weight.flip(2)]).clone()),
    ),
    "another network": on(LeViT, randomise),
}
LEAKS: dict[str, Sabotage] = {
    "leak of the batch's mean": on(
        nn.Linear, lambda m, rng: nn.Sequential(BatchMeanLeak(power(rng, -8, 0)), m), only="head"
    ),
    "leak before one block": on((Residual, AttentionSubsample), leak_before),
    "wrong from some place on": on(nn.Linear, wrong_from_some_place_on, only="head"),
}
ENDS: dict[str, Sabotage] = {
    "mean or std of one channel off": on(Normalise, one_channel_off),
    "mean or std of channels swapped": on(Normalise, swap_channels),
    "mean left out": on(Normalise, lambda m, _: m.mean.zero_()),
    "std left out": on(Normalise, lambda m, _: m.std.fill_(1)),
    "pixels in another scale": on(Normalise, scale_otherwise),
    "borders padded with black": on(LeViT, pad_with_black),
    "channels reversed": on(LeViT, reverse_channels),
    "no softmax, or another": on(nn.Softmax, lambda _m, rng: Function(rng.choice(NO_SOFTMAXES))),
    "softmax over the batch": on(nn.Softmax, lambda _m, _: Function(lambda x: x.softmax(0))),
    "two classes swapped": on(
        nn.Softmax,
        lambda _m, _: Function(lambda x: torch.cat([x[:, :2].flip(1), x[:, 2:]], 1).softmax(1)),
    ),
}
AFTER_THE_PASSES: dict[str, Sabotage] = {
    "weight transposed": on(nn.Linear, transpose),
    "q and k swapped": on(Attention, swap_q_and_k),
    "one weight changed": in_one_number(lambda old, rng: old * (1 + power(rng, -8, 1)), 2, 3, 4),
    "one bias changed": in_one_number(lambda old, rng: old * (1 + power(rng, -8, 1)), 1),
    "one weight not finite": in_one_number(
        lambda _old, rng: rng.choice([math.nan, math.inf, -math.inf, 1e30]), 1, 2, 3, 4
    ),
    "weights rounded": on(LeViT, rounded),
    "logits offset": on(nn.Linear, lambda m, rng: m.bias.add_(power(rng, -8, 1)), only="head"),
    "softmax at the end": on(LeViT, lambda m, _: add(m, lambda x: x.softmax(1))),
    "logits through float16": on(LeViT, lambda m, _: add(m, lambda x: x.half().to(x.dtype))),
    **LEAKS,
    **ENDS,
}


def rename(proto: onnx.ModelProto, old: str, new: str) -> None:
    for node in proto.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = new if value.name == old else value.name


def cast(proto: onnx.ModelProto, *types: int) -> None:
    """Cast the logits, or probabilities, to one type after the other."""
    name = proto.graph.output[0].name
    for to in types:
        rename(proto, name, f"head.{to}")
        node = onnx.helper.make_node("Cast", [f"head.{to}"], [name], f"head.cast.{to}", to=to)
        proto.graph.node.append(node)
    proto.graph.output[0].name = name
    proto.graph.output[0].type.tensor_type.elem_type = types[-1]


def bake_the_batch(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        numbers = numpy_helper.to_array(tensor).copy()
        if numbers.dtype == np.int64 and len(numbers) > 2 and numbers[0] == -1:
            numbers[0] = 1
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))


BREACHES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "output in float16": lambda proto: cast(proto, TensorProto.FLOAT16),
    "output cast and back": lambda proto: cast(proto, TensorProto.FLOAT16, TensorProto.FLOAT),
    "batch baked in": bake_the_batch,
}

# --- one artifact ---------------------------------------------------------------------------------


def write(
    net: Network, plain: LeViT, rng: random.Random, breach: Callable[[onnx.ModelProto], None] | None
) -> tuple[str, int | None, bytes]:
    """Export a plain network in a random way: how, the batch if it is fixed, and the bytes."""
    form = copy.deepcopy(plain).float().eval()
    foreign = any(isinstance(module, Function) for module in form.modules())
    if net.format is not None:
        return write_alone(net, form, rng, TARGETS[net.format], unwritable=bool(foreign or breach))
    layout = "tokens" if foreign else rng.choice(["tokens", "spatial"])
    form = to_spatial(form) if layout == "spatial" else form
    provenance = dataclasses.replace(net.provenance, layout=layout)
    torchscript = foreign or (rng.random() < 0.2 and not breach)
    if provenance.precision != "fp32":
        torchscript = provenance.precision == "bf16"
        if breach if torchscript else foreign:
            raise InapplicableError
    if torchscript:
        with own_ends(plain):
            return f"TorchScript, {layout}", None, to_torchscript(form, provenance)
    opset = rng.choice(OPSETS)
    batch = None if breach else rng.choice([None] * 8 + [1, 2, 3, 8])
    with own_ends(plain):
        proto = to_onnx(form, provenance, opset=opset, batch_size=batch)
    if breach:
        breach(proto)
    how = f"opset {opset}, {layout}" + (f", batch {batch}" if batch else "")
    return how, batch, proto.SerializeToString()


def write_alone(
    net: Network, form: LeViT, rng: random.Random, target: Target, *, unwritable: bool
) -> tuple[str, int | None, bytes]:
    """The same for one format, in its own layout."""
    if unwritable:
        raise InapplicableError
    batch = rng.choice([1, 2, 3, 8]) if target.batch_size else None
    layout = target.auto_layout(net.provenance.precision, ExportOptions())
    form = to_spatial(form) if layout == "spatial" else form
    provenance = dataclasses.replace(net.provenance, layout=layout)
    try:
        with own_ends(form):
            data = target.serialize(form, provenance, ExportOptions(batch_size=batch))
    except KeyError as error:  # a module of this study, which only writers that trace can write
        raise InapplicableError from error
    return f"{target.name}, batch {batch or 'free'}", batch, data


@contextmanager
def own_ends(plain: LeViT) -> Iterator[None]:
    """Have the writers write a plain network's ends, sabotaged or not, as its own."""
    pixels, softmax = (getattr(plain, end, None) for end in (PIXELS, PROBABILITIES))

    def statistics(*_: object) -> tuple[np.ndarray, np.ndarray]:
        return pixels.mean.numpy(), pixels.std.numpy()

    with (
        patch.object(Transform, "statistics", statistics),
        patch.object(nn, "Softmax", lambda **_: softmax),
    ):
        yield


def verdict(net: Network, data: bytes) -> tuple[str, Verification | None]:
    """Why the artifact is refused, "" where it is proven, and the figures if it came to them."""
    found, made = None, net.provenance
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact"
        path.write_bytes(data)
        try:
            artifact = load_artifact(path, threads=1)
            original = Original(
                model=net.original, config=made.config, head=made.head, transform=made.transform
            )
            found = measure(original, artifact, precision=made.precision)
            found.raise_if_failed()
            if artifact.format == "onnx":
                check_contract(path)
        except (ArtifactError, BackendError, VerificationError) as error:
            return f"{type(error).__name__}: {error}", found
        except CheckpointError as error:
            return f"{UNPROVABLE}: {error}", found
    return "", found


@dataclass(frozen=True)
class Sabotaged:
    """What became of a sabotaged artifact.

    ``excess`` is the true error in units of the budget, on images that the proof does not use;
    infinite for a breach of contract. ``own`` is the same on those it begins with, ``measured`` the
    proof's own figure. ``block`` is what was sabotaged, "" if several; ``off`` is how many blocks
    behind it the proof says that the artifact goes wrong, None where it does not say.
    """

    number: int
    kind: str
    how: str
    head: str
    excess: float
    own: float
    measured: float | None
    refusal: str
    block: str
    off: int | None


def sabotage(seed: int, number: int, kind: str, net: Network | None = None) -> Sabotaged:
    net = net or network(seed, number)
    head = net.provenance.head
    rng = random.Random(f"{seed}:{number}:{kind}")
    torch.manual_seed(rng.getrandbits(32))
    plain, place = sabotaged_network(net, kind, rng)
    try:
        how, batch, data = write(net, plain, rng, BREACHES.get(kind))
    except CheckpointError as error:  # a weight beyond float16
        how = f"{UNPROVABLE}: {error}"
        return Sabotaged(number, kind, how, head, math.inf, math.inf, None, how, "", None)
    excess = own = math.inf
    if kind in LEAKS:
        excess, own = (true_leak(plain, draws, batch) for draws in (net.other, net.own))
    elif kind not in BREACHES:
        excess, own = (true_excess(plain, draws) for draws in (net.other, net.own))
    refusal, found = verdict(net, data)
    if refusal.startswith("ArtifactError") and kind not in BREACHES:  # it proves nothing
        raise RuntimeError(f"{kind} made a file that does not load: {refusal}")
    measured = found and max(case.excess for case in found.cases)
    block, off = block_of(place), None
    if block and found and found.parting:
        off = net.blocks.index(found.parting.block) - net.blocks.index(block)
    return Sabotaged(number, kind, how, head, excess, own, measured, refusal, block, off)


@torch.no_grad()
def sabotaged_network(net: Network, kind: str, rng: random.Random) -> tuple[LeViT, str]:
    """The plain network in float64 with something wrong in it, and the module where."""
    if kind in BEFORE_THE_PASSES:
        model = copy.deepcopy(net.model).double()
        place = BEFORE_THE_PASSES[kind](model, rng)
        return with_ends(to_plain_float64(model, net.provenance.head), net.provenance), place
    plain = copy.deepcopy(net.plain)
    return plain, AFTER_THE_PASSES[kind](plain, rng) if kind in AFTER_THE_PASSES else ""


def run(model: LeViT, images: np.ndarray) -> np.ndarray:
    """What the proof's figures are about, of a plain network in float64 and its ends."""
    ends = dict(model.named_children())
    with torch.inference_mode():
        logits = model(ends.get(PIXELS, Tensor.double)(torch.from_numpy(images)))
        if PROBABILITIES not in ends:
            return logits.numpy()
        return log_probabilities(ends[PROBABILITIES](logits).numpy())


def true_excess(model: LeViT, draws: dict[str, Draw]) -> float:
    """The largest error of a float64 network, in units of the budget."""
    ratios = [0.0]
    for drawn in draws.values():
        error = run(model, drawn.images) - drawn.expected
        ratios += [rms(error) / drawn.budget.rmse, np.abs(error).max() / drawn.budget.max_error]
    return float(np.nan_to_num(ratios, nan=math.inf).max())


def true_leak(model: LeViT, draws: dict[str, Draw], batch: int | None) -> float:
    """The same for images of all kinds run together, each held to the largest error allowed.

    Twice that where the batch is dynamic and each has also been run alone, as the proof does.
    """
    images = np.concatenate([drawn.images for drawn in draws.values()])
    expected = np.concatenate([drawn.expected for drawn in draws.values()])
    allowed = np.array([d.budget.max_error for d in draws.values() for _ in d.images])
    allowed, size = (2 * allowed, TOGETHER) if batch is None else (allowed, batch)
    order, ratios = np.random.default_rng(0).permutation(len(images)), [0.0]
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        error = np.abs(run(model, images[rows]) - expected[rows]).max(axis=1)
        ratios.append(float((error / allowed[rows]).max()))
    return max(ratios)


def block_of(module: str) -> str:
    """The block that is the first to show what is wrong in a module; "" for "", several."""
    part, number, *_ = [*module.split("."), "0"]
    if part == PIXELS:
        return "pixel_values"
    if part == "patch_embed":  # an activation shows in the convolution behind it
        return f"patch_embed.{int(number) + int(number) % 2}"
    if part in ("to_tokens", "blocks"):
        return f"blocks.{number}"
    return "head" if part else ""  # or the softmax behind it


@dataclass(frozen=True)
class Figure:
    """A clean artifact's errors on one kind of input, in units of the budget.

    And in float32 steps of the largest logit, where the budget is its floor.
    """

    kind: str
    images: int
    rmse: float
    max_error: float
    rmse_ulps: float | None
    max_ulps: float | None


@dataclass(frozen=True)
class Clean:
    """What became of an artifact with nothing wrong."""

    number: int
    how: str
    refusal: str
    figures: tuple[Figure, ...]


def clean(seed: int, number: int, copy_number: int, net: Network) -> Clean:
    rng = random.Random(f"{seed}:{number}:{copy_number}")
    try:
        how, _, data = write(net, net.plain, rng, None)
    except CheckpointError as error:
        return Clean(number, "", f"{UNPROVABLE}: {error}", ())
    refusal, found = verdict(net, data)
    return Clean(number, how, refusal, tuple(figures(net, found)) if found else ())


def figures(net: Network, found: Verification) -> Iterator[Figure]:
    for case, result in zip(
        cases(net.provenance, PROOF_SEED), found.cases, strict=False
    ):  # and more
        while case.name != result.name and case.quieter:
            case = case.quieter()
        expected = net.reference.logits(case.draw(result.images))
        ulp, allowed = float(np.abs(expected).max()) * EPS[net.provenance.precision], result.budget
        rmse_floored = math.isclose(allowed.rmse, RMSE_FLOOR_ULPS * ulp)
        max_floored = math.isclose(allowed.max_error, MAX_FLOOR_ULPS * ulp)
        yield Figure(
            result.name,
            result.images,
            result.rmse / allowed.rmse,
            result.max_error / allowed.max_error,
            result.rmse / ulp if rmse_floored else None,
            result.max_error / ulp if max_floored else None,
        )


# --- the study ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Everything the study found."""

    sabotaged: tuple[Sabotaged, ...]
    clean: tuple[Clean, ...]
    overflows: tuple[str, ...] = ()


def study(
    sabotaged: int,
    untouched: int,
    seed: int,
    progress: Callable[[int], object] = lambda _done: None,
    precision: Precision = "fp32",
    interface: Interface = DEFAULT,
    format: str | None = None,
) -> Result:
    """Leave two artifacts of each network as they are and sabotage four, in each way in turn."""
    wrong: list[Sabotaged] = []
    right: list[Clean] = []
    overflows: list[str] = []
    kinds = (*ENDS, *BEFORE_THE_PASSES, *AFTER_THE_PASSES, *BREACHES)
    waiting = deque(dict.fromkeys(kinds))  # the ends first, where there are any to sabotage
    for number in count():
        if len(wrong) >= sabotaged and len(right) >= untouched:
            break
        try:
            net = network(seed, number, precision, interface, format)
        except CheckpointError as error:
            overflows.append(str(error))
            continue
        right += [clean(seed, number, i, net) for i in range(min(2, untouched - len(right)))]
        until = min(sabotaged, len(wrong) + 4)
        for kind in list(waiting):
            if len(wrong) < until:
                with suppress(InapplicableError):  # its turn comes with the next network
                    wrong.append(sabotage(seed, number, kind, net))
                    waiting.remove(kind)
                    waiting.append(kind)
        progress(len(wrong) + len(right))
    return Result(tuple(wrong), tuple(right), tuple(overflows))


def report(result: Result) -> Iterator[str]:
    """The tables, then every miss and every false alarm."""
    yield f"{'kind of sabotage':32}{'above 1':>8}{'refused':>8}{'below':>8}{'refused':>8}"
    for kind in (*BEFORE_THE_PASSES, *AFTER_THE_PASSES, *BREACHES):
        made = [case for case in result.sabotaged if case.kind == kind]
        if not made:  # such as sabotage of ends that these artifacts do not have
            continue
        above = [case for case in made if case.excess > 1]
        below = [case for case in made if case.excess <= 1]
        yield f"{kind:32}{len(above):8}{refused(above):8}{len(below):8}{refused(below):8}"

    yield f"\n{'true error / budget':32}{'made':>8}{'refused':>8}"
    computed = [case for case in result.sabotaged if case.kind not in BREACHES]
    for low, high in pairwise(BANDS):
        band = [c for c in computed if low <= c.excess < high or c.excess == high == math.inf]
        yield f"{f'{low} to {high}':32}{len(band):8}{refused(band):8}"

    placed = [case for case in computed if case.block and case.refusal and case.excess > 10]
    exactly, near = (sum(case.off in offs for case in placed) for offs in ((0,), (0, 1)))
    yield f"\nabove 10 in one block: {len(placed)}, it is named: {exactly}, it or the next: {near}"

    unprovable = [case for case in result.clean if case.refusal.startswith(UNPROVABLE)]
    alarms = [case for case in result.clean if case.refusal and case not in unprovable]
    yield f"\nclean: {len(result.clean)}, false alarms: {len(alarms)}"
    yield f"with no proof to be had: {len(unprovable)}"
    yield f"networks that overflow, and were left out: {len(result.overflows)}"
    yield f"{'kind of input':14}{'figure':22}{'of':>6}{'median':>9}{'99 %':>9}{'largest':>9}"
    all_figures = [figure for case in result.clean for figure in case.figures]
    for kind in dict.fromkeys(figure.kind for figure in all_figures):
        of_kind = [figure for figure in all_figures if figure.kind == kind]
        for name, numbers in (
            ("RMSE / budget", [f.rmse for f in of_kind]),
            ("max error / budget", [f.max_error for f in of_kind]),
            ("RMSE at floor, ulps", [f.rmse_ulps for f in of_kind if f.rmse_ulps is not None]),
            ("max at floor, ulps", [f.max_ulps for f in of_kind if f.max_ulps is not None]),
            ("images needed", [f.images for f in of_kind]),
        ):
            spread = (*np.quantile(numbers, [0.5, 0.99]), max(numbers)) if numbers else ()
            row = "".join(f"{number:9.2f}" for number in spread)
            yield f"{kind:14}{name:22}{len(numbers):6}{row}"

    yield from (f"MISSED: {c}" for c in result.sabotaged if c.excess > 1 and not c.refusal)
    yield from (f"FALSE ALARM: number {c.number}, {c.how}: {c.refusal}" for c in alarms)


def refused(cases: Sequence[Sabotaged]) -> int:
    return sum(bool(case.refusal) for case in cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sabotaged", type=int, default=1000)
    parser.add_argument("--clean", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--input-type", choices=INPUTS, default=DEFAULT.input)
    parser.add_argument("--output-type", choices=OUTPUTS, default=DEFAULT.output)
    parser.add_argument("--format", choices=TARGETS)
    parser.add_argument("--json", type=Path, help="a file for every case and its figures")
    args = parser.parse_args()
    torch.set_num_threads(1)

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {args.sabotaged + args.clean}", end="", file=sys.stderr)

    interface = Interface(args.input_type, args.output_type)
    result = study(
        args.sabotaged, args.clean, args.seed, progress, args.precision, interface, args.format
    )
    print(*report(result), sep="\n")
    if args.json:  # where what is infinite becomes null
        args.json.write_text(to_json(dataclasses.asdict(result)))


if __name__ == "__main__":
    main()
