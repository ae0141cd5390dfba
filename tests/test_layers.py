"""The house: one column of rooms, as pyproject.toml declares it and lint-imports checks it."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import levit_deploy

ROOT = Path(__file__).parent.parent
PACKAGE = Path(levit_deploy.__file__).parent
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][
    0
]["layers"]
FACES = sorted(path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def test_the_table_in_contributing_is_the_list_of_layers():
    table = re.findall(r"^\| (`\w+`(?: `\w+`)*) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    rooms = [re.findall(r"\w+", row) for row in table]
    listed = [name for row in rooms for name in row]
    layers = [layer.split(" | ") for layer in LAYERS if layer != "__main__"]
    assert sorted(listed) == sorted(name for layer in layers for name in layer)
    height = {name: i for i, layer in enumerate(layers) for name in layer}
    assert [height[name] for name in listed] == sorted(height[name] for name in listed)


def test_the_root_has_few_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= 20


@pytest.mark.parametrize("face", FACES, ids=lambda path: path.parent.name)
def test_a_face_only_hands_names_on(face):
    docstring, *statements = ast.parse(face.read_text()).body
    assert isinstance(docstring, ast.Expr)
    for statement in statements:
        is_all = isinstance(statement, ast.Assign) and statement.targets[0].id == "__all__"
        assert isinstance(statement, ast.ImportFrom) or is_all
