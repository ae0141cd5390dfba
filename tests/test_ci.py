"""``.ci/run`` runs the README's test command first, and fails when any of its steps fails."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Stands for apt-get, npm, pip, pytest and the checks: it writes down its call, and fails if
# $FAILS is in it.
TOOL = """#!/bin/sh
call="$(basename "$0") $*"
echo "$call" >> calls
case "$call" in *"$FAILS"*) exit 1 ;; esac
"""
# What the README's command stands for: it lists the tree as it finds it, and brings the tools.
NEWCOMER = """
echo README >> calls
ls -A . examples/* > tree
mkdir -p .venv-test/bin
for tool in python pip ruff mypy lint-imports; do cp bin/npm .venv-test/bin/$tool; done
"""
MARKED = ("node or cpp or web", "executorch and not study")
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
    packages = [f"examples/{name}/node_modules" for name in ("node", "web")]
    for folder in (".ci", ".venv-test", "bin", *packages):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "newcomer.sh").write_text(NEWCOMER)
    for name, does in (("npm", TOOL), ("apt-get", TOOL), ("id", "#!/bin/sh\necho 0\n")):
        (tmp_path / "bin" / name).write_text(does)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def ci(tree, fails="nothing"):
    path = f"{tree / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "FAILS": fails}
    return subprocess.run([tree / ".ci" / "run"], env=environment, capture_output=True).returncode


def test_nothing_is_done_to_the_tree_before_the_readmes_command(tree):
    assert ci(tree) == 0
    assert (tree / "tree").read_text().split() == [
        *(".:", ".ci", "README.md", "bin", "calls", "examples", "newcomer.sh", "tree"),
        *("examples/node:", "examples/web:"),
    ]
    calls = (tree / "calls").read_text().splitlines()
    calls = [call for call in calls if not call.startswith("apt-get")]  # at any time
    assert calls[0] == "README"
    assert [call for call in calls if call.startswith("python -m pytest")] == [
        f"python -m pytest -n auto -m {marked} tests/examples tests/targets" for marked in MARKED
    ]
    assert [call.split()[:2] for call in calls if call.startswith(("npm", "pip"))] == [
        ["npm", "install"],
        ["npm", "install"],
        ["pip", "install"],
    ]
    assert {"ruff check .", "ruff format --check .", "lint-imports ", "mypy "} < set(calls)


def test_chromium_is_asked_of_apt_by_root_alone(tree):
    ci(tree)
    asked = "apt-get -qq install -y --no-install-recommends chromium"
    assert asked in (tree / "calls").read_text()
    (tree / "calls").unlink()
    (tree / "bin" / "id").write_text("#!/bin/sh\necho 1000\n")
    ci(tree)
    assert "apt-get" not in (tree / "calls").read_text()


def test_the_tests_that_need_more_are_in_the_two_folders():
    marked = re.compile(r"mark\.(node|cpp|web|executorch)\b")
    files = [path for path in TESTS.rglob("*.py") if marked.search(path.read_text())]
    assert {path.parent.relative_to(TESTS).name for path in files} == {"examples", "targets"}


@pytest.mark.parametrize("step", ["pytest", "ruff check", "ruff format", "mypy", "lint-imports"])
def test_a_step_that_fails_fails_it(tree, step):
    assert ci(tree, fails=step) != 0


@pytest.mark.parametrize("tool", ["apt-get -qq update", "apt-get -qq install", "npm", "pip"])
def test_a_registry_that_cannot_be_reached_does_not_fail_it(tree, tool):
    assert ci(tree, fails=tool) == 0
