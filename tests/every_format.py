"""Every format, marked with the extra that it needs."""

import pytest

from levit_deploy.targets.formats import TARGETS

EXTRAS = {"litert": "ai_edge_litert"}  # the package of each extra that is a format
EVERY_FORMAT = [
    pytest.param(name, marks=getattr(pytest.mark, name) if name in EXTRAS else ())
    for name in TARGETS
]
