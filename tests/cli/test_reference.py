"""docs/cli.md is what the commands are."""

import runpy
from pathlib import Path

from command_line import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_is_current():
    page = runpy.run_path(str(DOCS / "make_cli.py"))["reference"]()
    assert (DOCS / "cli.md").read_text("utf-8") == page, "stale: run python docs/make_cli.py"
    for command, parsed in COMMANDS.items():
        section = page.split(f"\n## {command}\n")[1].split("\n## ")[0]
        for parameter in parsed.params:
            assert str(parameter.help).split(".")[0] in section.replace("\\|", "|")
            if parameter.opts[0].startswith("-") and parameter.name != "help":
                assert f"| `{', '.join(parameter.opts)}" in section
