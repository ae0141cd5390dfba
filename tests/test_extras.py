import re
import tomllib
from pathlib import Path

import pytest

from levit_deploy.errors import UsageError
from levit_deploy.extras import require_extra

ROOT = Path(__file__).parent.parent


def test_what_is_missing_is_named_with_the_extra_that_has_it():
    require_extra("bench", ("json", "re"), "It")
    with pytest.raises(UsageError) as caught:
        require_extra("bench", ("json", "nowhere1", "nowhere2"), "--plot")
    assert str(caught.value) == (
        "--plot needs nowhere1 and nowhere2, which this Python does not have. In the checkout of "
        "levit-deploy, run: pip install -c constraints.txt '.[bench]'"
    )


def test_every_hint_names_an_extra_that_there_is_and_no_package_on_an_index():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    sources = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("levit_deploy/**/*.py")]
    sources += [*ROOT.glob("examples/**/*.py"), *ROOT.glob("tests/**/*.py")]
    text = "\n".join(path.read_text() for path in sources)
    assert not re.findall(r"pip install [^\n&]*\blevit-deploy\b", text)
    named = set(re.findall(r"'\.\[(\w+)\]'", text))
    named |= set(re.findall(r'require_extra\(\s*"(\w+)"', text))
    assert {"bench", "ray"} <= named <= extras.keys()
