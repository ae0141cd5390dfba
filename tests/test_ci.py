"""``.ci/run`` runs the README's test command first, and fails when any of its steps fails."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Stands for npm, pytest and the checks: it writes down its call, and fails if $FAILS is in it.
TOOL = """#!/bin/sh
call="$(basename "$0") $*"
echo "$call" >> calls
case "$call" in *"$FAILS"*) exit 1 ;; esac
"""
# What the README's command stands for: it lists the tree as it finds it, and brings the tools.
NEWCOMER = """
echo README >> calls
ls -A . examples/node > tree
mkdir -p .venv-test/bin
for tool in python ruff mypy lint-imports; do cp bin/npm .venv-test/bin/$tool; done
"""
README = """
```sh
true
```
```sh
sh newcomer.sh
```
"""


@pytest.fixture
def tree(tmp_path):
    """A checkout where an earlier run left its files, and tools that write down their calls."""
    for folder in (".ci", ".venv-test", "bin", "examples/node/node_modules"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "newcomer.sh").write_text(NEWCOMER)
    (tmp_path / "bin" / "npm").write_text(TOOL)
    (tmp_path / "bin" / "npm").chmod(0o755)
    return tmp_path


def ci(tree, fails="nothing"):
    path = f"{tree / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "FAILS": fails}
    return subprocess.run([tree / ".ci" / "run"], env=environment, capture_output=True).returncode


def test_nothing_is_done_to_the_tree_before_the_readmes_command(tree):
    assert ci(tree) == 0
    assert (tree / "tree").read_text().split() == [
        *(".:", ".ci", "README.md", "bin", "calls", "examples", "newcomer.sh", "tree"),
        *("examples/node:",),
    ]
    readme, npm, *checks = (tree / "calls").read_text().splitlines()
    assert readme == "README"
    assert npm.startswith("npm install")
    pytest = "python -m pytest -n auto -m node or cpp"
    expected = ["ruff check .", "ruff format --check .", "lint-imports ", "mypy ", pytest]
    assert sorted(checks) == sorted(expected)


@pytest.mark.parametrize("step", ["pytest", "ruff check", "ruff format", "mypy", "lint-imports"])
def test_a_step_that_fails_fails_it(tree, step):
    assert ci(tree, fails=step) != 0


def test_a_registry_that_npm_cannot_reach_does_not_fail_it(tree):
    assert ci(tree, fails="npm") == 0
