"""Every format, marked with the extra that it needs."""

import pytest

from levit_deploy.targets.formats import TARGETS

# the package of each extra that is a format
EXTRAS = {"executorch": "executorch", "litert": "ai_edge_litert"}
SLOW = ("executorch",)  # takes half a minute to write any network, and has tests of its own
STUDIED = ("pt2",)  # takes 5 seconds, and has tests of its own
MARKS = {extra: getattr(pytest.mark, extra) for extra in EXTRAS}
MARKS |= dict.fromkeys(STUDIED, pytest.mark.study)
EVERY_FORMAT = [
    pytest.param(name, marks=MARKS.get(name, ())) for name in TARGETS if name not in SLOW
]
