"""The original network, in float64 and in the precision of an artifact."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from levit_deploy.arrays import FloatArray, Images, rows
from levit_deploy.choices import DTYPES, EPS, Output, Precision
from levit_deploy.errors import CheckpointError
from levit_deploy.model import AttentionBias, LeViT
from levit_deploy.passes.bake_attention_bias import AttentionBiasTable
from levit_deploy.passes.replace import copied, replace_modules
from levit_deploy.passes.stage_maps import ToMap
from levit_deploy.verification.answers import Answers, Claim, Key, claimed, remembered
from levit_deploy.verification.budget import log_probabilities

Model = TypeVar("Model", bound=nn.Module)

MOST_AT_ONCE, SCORES_BYTES = 4, 2**26  # images, and what the scores of one attention may take
SWEPT_BYTES = 2**26  # of the images that take turns in each part; no more than that, their tokens

NETWORKS = ("float64", "own")

REMEDY: dict[Precision, str] = {  # of an original that computes NaN or infinity
    "fp32": "Check the training run that wrote the file.",
    "fp16": "Export with --precision fp32, or bf16 as PT2, which reach as far as float32.",
    "bf16": "Export with --precision fp32.",
    "int8": "Check the training run that wrote the file.",
    "int8-dynamic": "Check the training run that wrote the file.",
    "w8a16": "Check the training run that wrote the file.",
}


class Reference:
    """The original network, in float64 and, as the unit of error, in an artifact's precision.

    No original computes in one of ROUNDED: the unit is the error of ``literal``, which maps images
    to the logits of the artifact computed literally, in floats. For an artifact that takes bytes,
    ``normalised(bytes, dtype=...)`` makes images of them: in float64, and in float32 for the unit,
    as the original's author does. ``output`` tells what takes the place of the logits here. For
    'probabilities' it is their logarithms: of a softmax in float64, and in float32 for the unit.
    'features' and 'feature-maps' are those of a ``model`` that gives them. ``answers`` has those to
    images asked about before, by any reference to the same ``model``, and is added to. Raises
    CheckpointError if a precision cannot hold the original's weights.
    """

    def __init__(
        self,
        model: LeViT,
        precision: Precision = "fp32",
        literal: Callable[[Images], FloatArray] | None = None,
        output: Output = "logits",
        normalised: Callable[..., npt.NDArray[Any]] | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.precision = precision
        self._output = output
        self._normalised = normalised
        self._literal = literal
        self._known: Answers = {} if answers is None else answers
        self._dtype = getattr(torch, DTYPES[precision])
        self._at_once = _images_at_once(model)
        self._stop = threading.Event()
        self._model = model
        for name, tensor in model.state_dict().items() if precision in ("fp16", "bf16") else ():
            # an infinite variance would make a BatchNorm forget its input, and the unit enormous
            if tensor.to(self._dtype).isinf().any():
                raise CheckpointError(
                    f"{name} holds a number beyond those of {DTYPES[precision]}. So the checkpoint "
                    "itself does not run in it, and there is nothing to hold an artifact to. "
                    f"{REMEDY[precision]}"
                )

    @functools.cached_property
    def _float64(self) -> LeViT:
        return _in_precision(self._model, torch.float64, self._at_once, self._stop)

    @functools.cached_property
    def _own(self) -> LeViT:
        return _in_precision(self._model, self._dtype, self._at_once, self._stop)

    @contextmanager
    def ahead(self, groups: Iterable[Sequence[Images]]) -> Iterator[None]:
        """Answer groups of images in a thread meanwhile, as the artifact has a process.

        The images of a group go through the network together, so that each weight is cast once.
        """

        def answer() -> None:
            with suppress(BaseException):  # who asks for the answer is told, as of an interrupt
                for group in groups:
                    with ExitStack() as claims:  # both at once, or who asks may come in between
                        mine_of = {
                            network: claims.enter_context(self._claimed(network, group))
                            for network in NETWORKS[: 1 if self._literal else 2]
                        }
                        for network, mine in mine_of.items():
                            self._fulfil(mine, group, functools.partial(self._run, network))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._stop.clear()

    def logits(self, images: Images) -> npt.NDArray[np.float64]:
        """Images as the artifact takes them -> float64 (n, classes), a row for each image."""
        return self._remembered("float64", images, functools.partial(self._run, "float64"))

    def own_logits(self, images: Images) -> FloatArray:
        """The original's in the artifact's precision, as float32: shapes as for ``logits``."""
        return self._remembered("own", images, functools.partial(self._run, "own"))

    def _remembered(
        self, network: object, images: Images, answer: Callable[[Images], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """The answers of a network to these very images, computed if they are not known yet."""
        answers: npt.NDArray[Any] = remembered(
            self._known, self._key(network, images), lambda: answer(images)
        )
        answers.setflags(write=False)
        return answers

    def _claimed(self, network: object, group: Sequence[Images]) -> AbstractContextManager[Claim]:
        """Claim the answers of a network to a group of images."""
        return claimed(self._known, [self._key(network, images) for images in group])

    def _key(self, network: object, images: Images) -> Key:
        dtype = None if network == "float64" else self._dtype
        digest = hashlib.sha256(np.ascontiguousarray(images).data).digest()
        return (network, dtype, self._output, images.dtype, images.shape, digest)

    def _fulfil(
        self,
        claim: Claim,
        group: Sequence[Images],
        answer: Callable[[Images], npt.NDArray[Any]],
    ) -> None:
        """Compute what was claimed, all of it together."""
        if not claim.places:
            return
        asked = [group[place] for place in claim.places]
        together = answer(np.concatenate(asked) if len(asked) > 1 else asked[0])
        together.setflags(write=False)
        ends = np.cumsum([len(images) for images in asked])[:-1]
        claim.fulfil(np.split(together, ends))

    def _run(self, network: str, images: Images) -> npt.NDArray[Any]:
        if network == "float64":
            return self._answers(self._float64, torch.float64, images)
        return self._answers(self._own, self._dtype, images)

    def _answers(self, model: LeViT, dtype: torch.dtype, images: Images) -> npt.NDArray[Any]:
        """The answers to the images of a network that computes in a precision."""
        given = self._given(dtype, images)
        size = max(self._at_once, SWEPT_BYTES // (8 * given[0].size))
        parts = [given[start : start + size] for start in range(0, len(given), size)]
        return self._finished(np.concatenate([_run(model, part) for part in parts]))

    def _finished(self, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._output != "probabilities":
            return logits
        return log_probabilities(torch.from_numpy(logits).softmax(1).numpy())

    def _given(self, dtype: torch.dtype, images: Images) -> npt.NDArray[Any]:
        """The inputs of the network itself."""
        if self._normalised is None:
            return images
        return self._normalised(images, dtype=np.float64 if dtype == torch.float64 else np.float32)

    def draws(self, images: Images, twins: int) -> Iterator[npt.NDArray[Any]]:
        """``own_logits`` of the original, and then of so many twins, as further draws.

        A twin has every weight moved by at most one step of the precision. In float32 the weights
        of the original are exact, and folding rounds each once: a twin's error against the original
        is like that of a correct artifact. In reduced precision the original's weights are rounded
        as well, and a twin's, moved and rounded, would be off by more. There its error is against
        its own float64 form.
        """
        if self._literal is not None:
            yield self._literal(images)
            return
        yield self.own_logits(images)
        for seed in range(twins):
            yield self._remembered(seed, images, functools.partial(self._twin, seed))

    def _twin(self, seed: int, images: Images) -> npt.NDArray[Any]:
        twin = twin_of(copied(self._model).double(), seed, EPS[self.precision])
        own = _in_precision(twin, self._dtype, self._at_once, self._stop)
        logits = self._answers(own, self._dtype, images)
        if self.precision == "fp32":
            return logits
        double = _in_precision(twin, torch.float64, self._at_once, self._stop)
        moved: npt.NDArray[Any] = (
            logits - self._answers(double, torch.float64, images) + self.logits(images)
        )
        return moved


def _images_at_once(model: LeViT) -> int:
    """A few images: the scores of each attention, which grow with tokens squared, take memory."""
    biases = (m for m in model.modules() if isinstance(m, AttentionBias | AttentionBiasTable))
    with torch.inference_mode():
        scores = max((bias().numel() for bias in biases), default=1)
    return max(1, min(MOST_AT_ONCE, SCORES_BYTES // (8 * scores)))


def twin_of(model: Model, seed: int, eps: float) -> Model:
    """A copy of a float64 network or block with every weight moved by at most one step."""
    twin, generator = copied(model), torch.Generator().manual_seed(seed)

    def moved(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        step = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 2 - 1
        return tensor * (1 + step * eps / 2)

    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.data = moved(parameter.data)
        for module in twin.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, moved(buffer))
    return twin


class _InPrecision(nn.Module):
    """A part of a network whose weights are held as they are, and cast while it runs.

    It takes a few images at once, until it is to ``stop``. Raises CancelledError then.
    """

    def __init__(
        self, part: nn.Module, dtype: torch.dtype, at_once: int, stop: threading.Event
    ) -> None:
        super().__init__()
        self.part, self.dtype, self.at_once, self.stop = part, dtype, at_once, stop

    def forward(self, x: Tensor) -> Any:
        part, outputs = copied(self.part).to(self.dtype), []
        for few in x.split(self.at_once):
            if self.stop.is_set():
                raise CancelledError
            outputs.append(part(few.to(self.dtype)))
        return torch.cat(outputs)


def _in_precision(model: LeViT, dtype: torch.dtype, at_once: int, stop: threading.Event) -> LeViT:
    """The network in a precision, part by part, and with each attention bias gathered once."""

    def gathered(leaf: AttentionBias, _name: str) -> AttentionBiasTable:
        return AttentionBiasTable(leaf.to(dtype)().detach())

    network = replace_modules(model, AttentionBias, gathered)
    for several in (network.blocks, network):
        for name, part in several.named_children():
            if several is not network or name.startswith(("patch_embed", "head")):
                given = (
                    part
                    if isinstance(part, ToMap | nn.Identity)
                    else _InPrecision(part, dtype, at_once, stop)
                )
                setattr(several, name, given)
    return network


def _run(model: LeViT, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with torch.inference_mode():
        given = model(torch.from_numpy(images))
    return rows([_numbers(output) for output in (given if isinstance(given, tuple) else (given,))])


def _numbers(tensor: Tensor) -> npt.NDArray[Any]:
    """As float64 or float32; numpy has no bfloat16."""
    return np.asarray((tensor if tensor.dtype == torch.float64 else tensor.float()).numpy())
