"""What the README promises in so many words."""

import re
from pathlib import Path

from command_line import COMMANDS

from levit_deploy import errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_first_two_blocks_are_one_command_line_each():
    demo, tests = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[:2]
    for block, last in ((demo, "levit-deploy demo"), (tests, "python -m pytest -n auto")):
        assert block.count("\n") == 1
        assert block.startswith("python3 -m venv ")
        assert "-c constraints.txt" in block
        assert block.rstrip().endswith(last)


def test_every_command_and_every_exit_code_is_listed():
    for command in COMMANDS:
        assert f"| `levit-deploy {command}" in README
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert codes == {0, 130} | {kind.exit_code for kind in classes}


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_example_that_is_named_exists():
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").iterdir()]
    named = {name for page in pages for name in re.findall(r"examples/[\w./]+\w", page.read_text())}
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
