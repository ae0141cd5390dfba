"""A target that is one file: a fused file behind a magic word, run by torch in a child.

Its int8 files hold the weights of int8, as the floats that they stand for.
"""

import copy
import dataclasses
import hashlib
import json

from safetensors.torch import load as load_tensors

from levit_deploy.checkpoint import fused
from levit_deploy.errors import ArtifactError, VerificationError
from levit_deploy.targets.fused import module_values
from levit_deploy.targets.target import Form, Int8Standard, Target
from levit_deploy.targets.torch_module import torch_artifact

MAGIC = b"a toy for tests\n"


def serialize(model, provenance, _options):
    return MAGIC + fused.serialize(model, provenance)


def rounded(model, _provenance, options, _images):
    model = copy.deepcopy(model)
    for weight in _weights(model):
        step = _steps(weight)
        weight.data = (weight / step).round() * step
    return lambda provenance: serialize(model, provenance, options)


def standard(model, provenance, options, path, data):
    given, _ = _restored(path, data)
    for ours, theirs in zip(_weights(model), _weights(given), strict=True):
        if ((ours - theirs).abs() > 0.5001 * _steps(ours)).any():
            raise VerificationError(f"{path} is not the checkpoint's network, rounded.")
    plain = dataclasses.replace(provenance, precision="fp32")
    return Int8Standard(unrounded=serialize(model, plain, options))


def _weights(model):
    return [module.weight for module in model.modules() if hasattr(module, "weight")]


def _steps(weight):
    """One for each output, the largest weight being 127 of them."""
    return weight.abs().flatten(1).amax(1).div(127).view(-1, *[1] * (weight.dim() - 1))


def _restored(path, data):
    tensors = data[len(MAGIC) :]
    header = json.loads(tensors[8 : 8 + int.from_bytes(tensors[:8], "little")])
    metadata = header["__metadata__"]
    if not data.startswith(MAGIC):
        raise ArtifactError(f"{path} is no toy.")
    return fused.restore(load_tensors(tensors), metadata, path)[0], metadata


def load(path, data, threads, literal):
    model, metadata = _restored(path, data)
    return torch_artifact(
        model,
        fused.LeViTConfig.from_json(metadata["config"]),
        module_values,
        path=path,
        format="toy",
        runtime="toy runtime",
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
    )


TOY = Target(
    name="toy",
    suffix=".toy",
    runtime="toy runtime",
    precisions=("fp32", "int8", "int8-dynamic"),
    forms=(Form("tokens", "tokens"),),
    auto_layout=lambda _precision, _options: "tokens",
    serialize=serialize,
    rounded=rounded,
    standard=standard,
    check_file=lambda path: {"bytes": path.stat().st_size},
    recognises=lambda start: start.startswith(MAGIC),
    load=load,
    runtime_modules=("torch",),
)
