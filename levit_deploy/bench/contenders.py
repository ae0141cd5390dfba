"""The entries: the original, the plain export, and every form this tool can write."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.bench.contender import (
    AnyRun,
    Contender,
    Entry,
    Making,
    here,
    in_child,
    of_artifact,
    opened,
)
from levit_deploy.bench.in_openvino import in_openvino
from levit_deploy.bench.plain_export import plain_dynamic_int8, plain_export, plain_int8
from levit_deploy.choices import ROUNDED, Layout
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.interface import INPUT_NAME, Interface
from levit_deploy.layout import to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.on_noise import file_to_time
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.load import open_isolated
from levit_deploy.targets.onnx import ONNX, ONNX_FOR_OPENVINO
from levit_deploy.targets.target import Form, Target
from levit_deploy.targets.torchscript_writer import deprecation_accepted

PLAIN = "plain export"
_OTHERS = (target.runtime.lower() for target in TARGETS.values() if target.forms)
RUNTIMES = tuple(dict.fromkeys(("onnxruntime", "openvino", "torch", *_OTHERS)))
CALIBRATING = 4  # images


def entries(
    model: LeViT,
    config: LeViTConfig,
    head: str,
    *,
    batch_size: int,
    threads: int,
    children: ExitStack,
) -> Iterator[Entry]:
    """Name everything that can be timed here; the plain export comes first.

    ``model`` is the original, in evaluation mode. torch's own threads must have been set. Files
    that have a fixed batch take ``batch_size``. Those of ONNX run in this process, and all others
    in ``children``.
    """
    tokens = to_plain(model)
    networks: dict[Layout, LeViT] = {"tokens": tokens, "spatial": to_spatial(tokens)}
    interface = Interface(output="features" if config.headless else "logits")
    provenance = Provenance(
        checkpoint_sha256="", config=config, head=head, layout="", interface=interface
    )
    plain = cache(partial(plain_export, model, (config.in_channels, *config.image_size)))

    def file_of(target: Target, form: Form) -> bytes:
        written_as = replace(
            provenance, layout=form.layout, precision=form.precision, runtime=target.runtime
        )
        options = form.options
        if target.batch_size is not None:
            options = replace(options, batch_size=batch_size)
        return file_to_time(target, networks[form.layout], written_as, options)

    def forms_of(target: Target) -> dict[str, Making]:
        return {
            form.name: cache(partial(file_of, target, form))
            for form in target.forms
            if interface.has_classes or form.precision not in ROUNDED
        }

    files: dict[str, Making] = {PLAIN: plain, **forms_of(ONNX), **_plain_int8(plain, config)}
    in_onnxruntime = partial(_onnxruntime, threads=threads)
    for name, file in files.items():
        yield Entry(name, "onnxruntime", partial(opened, file, in_onnxruntime))
    yield Entry("original, eager", "torch", lambda: here(_torch_run(model)))
    yield Entry("original, frozen", "TorchScript", partial(_original_torchscript, model, config))
    for target in TARGETS.values():
        if target is ONNX:
            continue
        at = "" if target.batch_size is None else f", batch {batch_size}"
        for name, file in forms_of(target).items():
            yield Entry(f"{name}{at}", target.runtime, partial(in_child, file, children, threads))
    fixed = forms_of(ONNX_FOR_OPENVINO)
    yield from in_openvino(files, fixed, batch_size, PLAIN, _noise(config), threads)


def _plain_int8(plain: Making, config: LeViTConfig) -> dict[str, Making]:
    """The plain export as onnxruntime's tools round it, on noise."""
    return {
        f"{PLAIN}, int8": cache(lambda: plain_int8(plain(), _noise(config))),
        f"{PLAIN}, dynamic int8": cache(lambda: plain_dynamic_int8(plain())),
    }


def _noise(config: LeViTConfig) -> FloatArray:
    return np.random.default_rng(0).standard_normal(
        (CALIBRATING, config.in_channels, *config.image_size), dtype=np.float32
    )


def _onnxruntime(data: bytes, threads: int) -> AnyRun:
    session = onnx_session(data, threads)
    return lambda images: session.run(None, {INPUT_NAME: images})


def _original_torchscript(model: LeViT, config: LeViTConfig) -> Contender:
    """The original, traced and frozen as anybody would."""
    images = torch.zeros(2, config.in_channels, *config.image_size)
    with deprecation_accepted():
        program = torch.jit.freeze(torch.jit.trace(model, images, check_trace=False))
    return here(_torch_run(program))


def given_artifact(
    path: Path,
    config: LeViTConfig,
    batch_sizes: Sequence[int],
    threads: int,
    children: ExitStack,
) -> Entry:
    """A file of the user's, by the path that was given, as two may have one name.

    Raises ArtifactError if it takes other images than the network, UsageError if it takes none of
    the batches, and BackendError if it crashes.
    """
    artifact = children.enter_context(open_isolated(path, threads))
    expected = artifact.interface.image_shape(config)
    if artifact.image_shape != expected:
        raise ArtifactError(
            f"{path} takes images of shape {artifact.image_shape}, the network takes {expected}. "
            "Give artifacts of this network."
        )
    if artifact.batch_size not in (None, *batch_sizes):
        raise UsageError(
            f"{path} takes batches of {artifact.batch_size} only. Give --batch-size "
            f"{','.join(map(str, (*batch_sizes, artifact.batch_size)))}, or leave it out."
        )
    contender = of_artifact(artifact, path.stat().st_size)
    return Entry(str(path), artifact.runtime, lambda: contender)


def _torch_run(module: Callable[[torch.Tensor], Any]) -> AnyRun:
    def run(images: Images) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(images))

    return run
