"""Turn a trained LeViT into the fastest artifact your runtime can run, with proof.

    import levit_deploy

    checkpoint = levit_deploy.load("ckpt.pth")
    published = levit_deploy.export(checkpoint, "onnx", "ckpt.onnx")

The names are imported when they are first used: torch takes two seconds, ``--help`` should not.
"""

from typing import TYPE_CHECKING, Any

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
    from levit_deploy.exporters import ExportOptions
    from levit_deploy.pipeline import Published, export, fuse, quantize, verify
    from levit_deploy.prediction import Answer, Prediction, predict
    from levit_deploy.quantization import Int8Options, Quantization
    from levit_deploy.triton import TritonModel
    from levit_deploy.verification import Case, Verification

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "ArtifactError",
    "BackendError",
    "Case",
    "Checkpoint",
    "CheckpointError",
    "Disagreement",
    "Evaluation",
    "ExportOptions",
    "InputError",
    "Int8Options",
    "LevitDeployError",
    "OutputError",
    "Prediction",
    "Published",
    "Quantization",
    "TritonModel",
    "UnsafeInputError",
    "UsageError",
    "Verification",
    "VerificationError",
    "evaluate",
    "export",
    "fuse",
    "load",
    "predict",
    "quantize",
    "verify",
]

_HOMES = {
    "Checkpoint": ("levit_deploy.checkpoint", "Checkpoint"),
    "load": ("levit_deploy.checkpoint", "read_checkpoint"),
    "ExportOptions": ("levit_deploy.exporters", "ExportOptions"),
    "Published": ("levit_deploy.pipeline", "Published"),
    "fuse": ("levit_deploy.pipeline", "fuse"),
    "export": ("levit_deploy.pipeline", "export"),
    "quantize": ("levit_deploy.pipeline", "quantize"),
    "verify": ("levit_deploy.pipeline", "verify"),
    "Int8Options": ("levit_deploy.quantization", "Int8Options"),
    "Quantization": ("levit_deploy.quantization", "Quantization"),
    "TritonModel": ("levit_deploy.triton", "TritonModel"),
    "Case": ("levit_deploy.verification", "Case"),
    "Verification": ("levit_deploy.verification", "Verification"),
    "Answer": ("levit_deploy.prediction", "Answer"),
    "Prediction": ("levit_deploy.prediction", "Prediction"),
    "predict": ("levit_deploy.prediction", "predict"),
    "Disagreement": ("levit_deploy.evaluation", "Disagreement"),
    "Evaluation": ("levit_deploy.evaluation", "Evaluation"),
    "evaluate": ("levit_deploy.evaluation", "evaluate"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
