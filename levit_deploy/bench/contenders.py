"""The contenders: the original, the plain export, and every form this tool can write."""

import dataclasses
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from levit_deploy.arrays import FloatArray, Images
from levit_deploy.bench.contender import AnyRun, Contender, opened
from levit_deploy.bench.plain_export import plain_dynamic_int8, plain_export, plain_int8
from levit_deploy.choices import Layout
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.interface import INPUT_NAME, Interface
from levit_deploy.layout import to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.calibration import observed_ranges
from levit_deploy.runtime.sessions import onnx_session
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.onnx import ONNX, ONNX_FOR_OPENVINO
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_opsets import ATTENTION_OPSET, DEFAULT_OPSET
from levit_deploy.targets.onnx_rounding import Rounding
from levit_deploy.targets.onnx_schemes import FOR_OPENVINO
from levit_deploy.targets.target import ExportOptions, Target
from levit_deploy.targets.torchscript_writer import deprecation_accepted

PLAIN = "plain export"
CALIBRATING = 4  # images


def contenders(model: LeViT, config: LeViTConfig, head: str, threads: int) -> Iterator[Contender]:
    """Make everything that can be timed here, one by one; the plain export comes first.

    ``model`` is the original, in evaluation mode. torch's own threads must have been set.
    """
    plain = plain_export(model, (config.in_channels, *config.image_size))
    in_onnxruntime = partial(_onnxruntime, threads=threads)
    yield opened(PLAIN, "onnxruntime", plain, in_onnxruntime)
    yield Contender(name="original, eager", runtime="torch", run=_torch_run(model))
    yield _original_torchscript(model, config)

    tokens = to_plain(model)
    networks: dict[Layout, LeViT] = {"tokens": tokens, "spatial": to_spatial(tokens)}
    interface = Interface(output="features" if config.headless else "logits")
    provenance = Provenance(
        checkpoint_sha256="", config=config, head=head, layout="", interface=interface
    )

    def files_of(target: Target) -> dict[str, bytes]:
        return {
            form.name: target.serialize(
                networks[form.layout],
                dataclasses.replace(provenance, precision=form.precision),
                form.options,
            )
            for form in target.forms
        }

    onnx_files = files_of(ONNX)
    onnx_files |= _int8(plain, networks, provenance)
    for name, data in onnx_files.items():
        yield opened(name, "onnxruntime", data, in_onnxruntime)
    for target in TARGETS.values():
        if target is not ONNX:
            for name, data in files_of(target).items():
                yield _loaded(target, name, data, threads)
    if importlib.util.find_spec("openvino") is not None:
        from levit_deploy.bench.in_openvino import in_openvino

        single = _for_a_single_image(networks["tokens"], provenance)
        files = {PLAIN: plain, **onnx_files}
        yield from in_openvino(files, single, PLAIN, _noise(config), threads)


def _int8(
    plain: bytes, networks: Mapping[Layout, LeViT], provenance: Provenance
) -> dict[str, bytes]:
    """The int8 files, calibrated on noise: for the time they take, that does not matter."""
    images = _noise(provenance.config)
    files = {
        f"{PLAIN}, int8": plain_int8(plain, images),
        f"{PLAIN}, dynamic int8": plain_dynamic_int8(plain),
    }
    if not provenance.interface.has_classes:
        return files
    for opset in (DEFAULT_OPSET, ATTENTION_OPSET):
        form = Int8Form(model=networks["tokens"], provenance=provenance, opset=opset)
        files[f"int8, opset {opset}"] = _rounded(form, images)
    return files


def _noise(config: LeViTConfig) -> FloatArray:
    return np.random.default_rng(0).standard_normal(
        (CALIBRATING, config.in_channels, *config.image_size), dtype=np.float32
    )


def _for_a_single_image(network: LeViT, provenance: Provenance) -> dict[str, bytes]:
    """The files for OpenVINO, float and int8."""
    options = ExportOptions(batch_size=1)
    files = {"tokens": ONNX_FOR_OPENVINO.serialize(network, provenance, options)}
    if provenance.interface.has_classes:
        form = Int8Form(
            model=network,
            provenance=provenance,
            opset=DEFAULT_OPSET,
            batch_size=1,
            scheme=FOR_OPENVINO,
        )
        files["int8 for OpenVINO"] = _rounded(form, _noise(provenance.config))
    return files


def _rounded(form: Int8Form, images: FloatArray) -> bytes:
    rounding = Rounding(ranges=observed_ranges(form, images)["MinMax"], cpu="any")
    data: bytes = form.rounded(rounding).SerializeToString()
    return data


def _loaded(target: Target, name: str, data: bytes, threads: int) -> Contender:
    start = time.perf_counter()
    artifact = target.load(Path(name), data, threads, False)
    taken = time.perf_counter() - start
    return Contender(
        name=name,
        runtime=target.runtime,
        run=artifact.run,
        size_bytes=len(data),
        load_s=taken,
        batch_size=artifact.batch_size,
    )


def _onnxruntime(data: bytes, threads: int) -> AnyRun:
    session = onnx_session(data, threads)
    return lambda images: session.run(None, {INPUT_NAME: images})


def _original_torchscript(model: LeViT, config: LeViTConfig) -> Contender:
    """The original, traced and frozen as anybody would."""
    images = torch.zeros(2, config.in_channels, *config.image_size)
    with deprecation_accepted():
        program = torch.jit.freeze(torch.jit.trace(model, images, check_trace=False))
    return Contender(name="original, frozen", runtime="TorchScript", run=_torch_run(program))


def given_artifact(
    path: Path, config: LeViTConfig, batch_sizes: Sequence[int], threads: int
) -> Contender:
    """A file of the user's, by the path that was given, as two may have one name.

    Raises ArtifactError if it takes other images than the network, UsageError if it takes none of
    the batches.
    """
    start = time.perf_counter()
    artifact = load_artifact(path, threads)
    taken = time.perf_counter() - start
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
    return Contender(
        name=str(path),
        runtime=artifact.runtime,
        run=artifact.run,
        size_bytes=path.stat().st_size,
        load_s=taken,
        batch_size=artifact.batch_size,
        input=artifact.interface.input,
    )


def _torch_run(module: Callable[[torch.Tensor], Any]) -> AnyRun:
    def run(images: Images) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(images))

    return run
