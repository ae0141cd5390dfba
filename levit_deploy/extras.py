"""Check for packages that only some commands need."""

from __future__ import annotations

import importlib.util

from levit_deploy.errors import UsageError


def require_extra(extra: str, packages: tuple[str, ...], feature: str) -> None:
    """Raise UsageError if ``packages`` are missing, which the extra ``extra`` installs.

    ``feature`` is the user's name for the part that needs them.
    """
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise UsageError(
            f"{feature} needs {' and '.join(missing)}, which this Python does not have. In the "
            f"checkout of levit-deploy, run: pip install -c constraints.txt '.[{extra}]'"
        )


def is_installed(package: str) -> bool:
    """Whether a package could be imported, by its name there."""
    return importlib.util.find_spec(package) is not None


def require_openvino() -> None:
    """Raise UsageError if OpenVINO is not installed."""
    require_extra("openvino", ("openvino",), "The runtime openvino")
