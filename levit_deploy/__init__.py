"""Turn a trained LeViT into the fastest artifact your runtime can run, with proof.

    import levit_deploy

    checkpoint = levit_deploy.load("ckpt.pth")
    published = levit_deploy.export(checkpoint, "onnx", "ckpt.onnx")

The names are imported when they are first used: torch takes two seconds, ``--help`` should not.
"""

from typing import TYPE_CHECKING, Any

from levit_deploy._version import __version__ as __version__
from levit_deploy.errors import (
    ArtifactError,
    BackendError,
    CheckpointError,
    InputError,
    LevitDeployError,
    OutputError,
    UnsafeInputError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from levit_deploy.checkpoint import Checkpoint
    from levit_deploy.checkpoint import read_checkpoint as load
    from levit_deploy.evaluation import Disagreement, Evaluation, evaluate
    from levit_deploy.optimization.optimize import optimize
    from levit_deploy.optimization.outcome import Optimization
    from levit_deploy.pipeline import Published, export, fuse, quantize, verify
    from levit_deploy.prediction.embeddings import Embedding, embed
    from levit_deploy.prediction.predict import Answer, Prediction, predict
    from levit_deploy.publish.triton import TritonModel
    from levit_deploy.quantization.outcome import Quantization
    from levit_deploy.quantization.quantize import Int8Options
    from levit_deploy.targets.target import ExportOptions
    from levit_deploy.verification.inputs import Case
    from levit_deploy.verification.result import Verification

__all__ = [
    "Answer",
    "ArtifactError",
    "BackendError",
    "Case",
    "Checkpoint",
    "CheckpointError",
    "Disagreement",
    "Embedding",
    "Evaluation",
    "ExportOptions",
    "InputError",
    "Int8Options",
    "LevitDeployError",
    "Optimization",
    "OutputError",
    "Prediction",
    "Published",
    "Quantization",
    "TritonModel",
    "UnsafeInputError",
    "UsageError",
    "Verification",
    "VerificationError",
    "embed",
    "evaluate",
    "export",
    "fuse",
    "load",
    "optimize",
    "predict",
    "quantize",
    "verify",
]

_HOMES = {
    "Answer": "levit_deploy.prediction.predict",
    "Case": "levit_deploy.verification.inputs",
    "Checkpoint": "levit_deploy.checkpoint.read",
    "Disagreement": "levit_deploy.evaluation",
    "Embedding": "levit_deploy.prediction.embeddings",
    "Evaluation": "levit_deploy.evaluation",
    "ExportOptions": "levit_deploy.targets.target",
    "Int8Options": "levit_deploy.quantization.quantize",
    "Optimization": "levit_deploy.optimization.outcome",
    "Prediction": "levit_deploy.prediction.predict",
    "Published": "levit_deploy.pipeline",
    "Quantization": "levit_deploy.quantization.search",
    "TritonModel": "levit_deploy.publish.triton",
    "Verification": "levit_deploy.verification.result",
    "embed": "levit_deploy.prediction.embeddings",
    "evaluate": "levit_deploy.evaluation",
    "export": "levit_deploy.pipeline",
    "fuse": "levit_deploy.pipeline",
    "load": "levit_deploy.checkpoint.read",
    "optimize": "levit_deploy.optimization.optimize",
    "predict": "levit_deploy.prediction.predict",
    "quantize": "levit_deploy.pipeline",
    "verify": "levit_deploy.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    attribute = "read_checkpoint" if name == "load" else name
    return getattr(import_module(_HOMES[name]), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
