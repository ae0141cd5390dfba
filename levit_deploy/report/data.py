"""The data of a report: plain values that become strict JSON, and versions."""

import importlib.metadata
import json
import math
import platform
from typing import Any

from levit_deploy._version import __version__
from levit_deploy.extras import is_installed
from levit_deploy.text import as_utf8

Data = dict[str, Any]

EXTRAS = {"openvino": "openvino", "executorch": "executorch", "ai-edge-litert": "ai_edge_litert"}


def versions() -> dict[str, str]:
    """Versions of this tool, Python, and the libraries that the figures depend on."""
    libraries = ["torch", "onnx", "onnxruntime", "onnxsim", "numpy"]
    libraries += [name for name, module in EXTRAS.items() if is_installed(module)]
    return {
        "levit-deploy": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in libraries},
        "machine": platform.platform(),
    }


def to_json(data: Data) -> str:
    """Strict JSON: NaN and infinity become null, and every name UTF-8."""
    return json.dumps(_strict(data), indent=2, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {_strict(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, str):
        return as_utf8(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
