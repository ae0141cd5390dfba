"""Turn a trained LeViT into the fastest artifact your runtime can run, with proof.

    import levit_deploy

    checkpoint = levit_deploy.load("ckpt.pth")
    published = levit_deploy.export(checkpoint, "onnx", "ckpt.onnx")

The names are imported when they are first used: torch takes two seconds, ``--help`` should not.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from levit_deploy.checkpoint import read_checkpoint as load
    from levit_deploy.errors import LevitDeployError
    from levit_deploy.evaluation import evaluate
    from levit_deploy.exporters import ExportOptions
    from levit_deploy.pictures import picture_case
    from levit_deploy.pipeline import export, fuse, quantize, verify
    from levit_deploy.prediction import predict
    from levit_deploy.quantization import Int8Options

__version__ = "0.1.0"

__all__ = [
    "ExportOptions",
    "Int8Options",
    "LevitDeployError",
    "evaluate",
    "export",
    "fuse",
    "load",
    "picture_case",
    "predict",
    "quantize",
    "verify",
]

_HOMES = {
    "ExportOptions": ("levit_deploy.exporters", "ExportOptions"),
    "LevitDeployError": ("levit_deploy.errors", "LevitDeployError"),
    "load": ("levit_deploy.checkpoint", "read_checkpoint"),
    "picture_case": ("levit_deploy.pictures", "picture_case"),
    "fuse": ("levit_deploy.pipeline", "fuse"),
    "export": ("levit_deploy.pipeline", "export"),
    "Int8Options": ("levit_deploy.quantization", "Int8Options"),
    "quantize": ("levit_deploy.pipeline", "quantize"),
    "verify": ("levit_deploy.pipeline", "verify"),
    "predict": ("levit_deploy.prediction", "predict"),
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
