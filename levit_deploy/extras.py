"""Packages that only some commands need, and how to get them."""

from __future__ import annotations

import importlib.util

from levit_deploy.errors import UsageError


def require_extra(extra: str, packages: tuple[str, ...], what: str) -> None:
    """Raise UsageError where packages are missing that the extra ``extra`` of this one installs.

    ``what`` needs them, as the user would call it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{what} needs {' and '.join(missing)}, not installed here. In the checkout of "
            f"levit-deploy: pip install -c constraints.txt '.[{extra}]'"
        )
