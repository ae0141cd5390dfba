"""A target that is one file: a fused file behind a magic word, run by torch in a child."""

import hashlib
import json

from safetensors.torch import load as load_tensors

from levit_deploy.checkpoint import fused
from levit_deploy.errors import ArtifactError
from levit_deploy.targets.fused import module_values
from levit_deploy.targets.target import Form, Target
from levit_deploy.targets.torch_module import torch_artifact

MAGIC = b"a toy for tests\n"


def serialize(model, provenance, _options):
    return MAGIC + fused.serialize(model, provenance)


def load(path, data, threads, literal):
    tensors = data[len(MAGIC) :]
    header = json.loads(tensors[8 : 8 + int.from_bytes(tensors[:8], "little")])
    metadata = header["__metadata__"]
    if not data.startswith(MAGIC):
        raise ArtifactError(f"{path} is no toy.")
    model, provenance = fused.restore(load_tensors(tensors), metadata, path)
    return torch_artifact(
        model,
        provenance.config,
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
    precisions=("fp32",),
    forms=(Form("tokens", "tokens"),),
    auto_layout=lambda _precision, _options: "tokens",
    serialize=serialize,
    check_file=lambda path: {"bytes": path.stat().st_size},
    recognises=lambda start: start == MAGIC,
    load=load,
    runtime_modules=("torch",),
)
