"""The README is short; every page links to files and names options that exist."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer
from command_line import COMMANDS

from levit_deploy import errors
from levit_deploy.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("examples/**/*.md"),
    *ROOT.glob(".github/**/*.md"),
]
OURS = [page.relative_to(ROOT) for page in PAGES if "node_modules" not in page.parts]
TEXTS = {str(page): (ROOT / page).read_text() for page in OURS}

# options of Ray and Triton
FOREIGN = {"--generate", "--head", "--port", "--address", "--model-repository"}

every_page = pytest.mark.parametrize("page", TEXTS)


def test_the_readme_has_fewer_than_700_words():
    assert len(README.split()) < 700


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
    rows = re.findall(r"^\| (\d+) \|", TEXTS["docs/cli.md"], re.MULTILINE)
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {int(code) for code in rows} == {0, 130} | {kind.exit_code for kind in classes}


def test_the_index_lists_every_page_and_every_example():
    linked = set(re.findall(r"^- \[.+\]\(([\w-]+\.md)\):", TEXTS["docs/README.md"], re.MULTILINE))
    assert linked == {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    for script in ROOT.glob("examples/*.py"):
        assert f"(../examples/{script.name})" in TEXTS["docs/README.md"]


@every_page
def test_every_link_leads_somewhere(page):
    assert "@@" not in TEXTS[page]
    for link in re.findall(r"\]\(([^)]+)\)", without_code(TEXTS[page])):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@every_page
def test_every_example_and_test_that_is_named_exists(page):
    for name in re.findall(r"\b(?:examples|tests|levit_deploy)/[\w./]+\w", TEXTS[page]):
        assert (ROOT / name).exists(), name


def test_contributing_names_modules_that_exist():
    names = re.findall(r"`([a-z][\w/]*\.py)`", TEXTS["CONTRIBUTING.md"])
    assert len(names) > 10
    for name in names:
        within = ("", "checkpoint", "checkpoint/families")
        rooms = (ROOT, *(ROOT / "levit_deploy" / room for room in within))
        assert any((room / name).exists() for room in rooms), name


@every_page
def test_every_command_line_names_commands_and_options_that_exist(page):
    for words in command_lines(TEXTS[page]):
        assert words[0] in OPTIONS, words
        unknown = {word for word in words[1:] if word.startswith("-")} - OPTIONS[words[0]] - {"-"}
        assert not unknown, words


@every_page
def test_every_option_is_one_of_a_command_or_of_an_example(page):
    paths = [*ROOT.glob("examples/*.py"), *ROOT.glob("examples/[!_]*/*.*")]
    scripts = "\n".join(path.read_text() for path in paths)
    known = FOREIGN.union(OPTIONS, *OPTIONS.values()) | set(re.findall(r'"(--[a-z-]+)"', scripts))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*\b", TEXTS[page]))
    assert not named - known


def test_command_lines_are_found_in_blocks_and_in_sentences():
    text = (
        "```console\n$ levit-deploy export a.pth -o b  # fine\n```\n`levit-deploy demo`, `fuse -x`"
    )
    assert command_lines(text) == [["export", "a.pth", "-o", "b"], ["demo"], ["fuse", "-x"]]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def command_lines(text: str) -> list[list[str]]:
    """The words after ``levit-deploy`` in blocks, and in code within sentences."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^    (levit-deploy .*)", text, re.MULTILINE)
    found = [
        match[1]
        for line in lines
        for part in line.split("&&")
        if (match := re.match(r"(?:\$ )?\s*(?:\S+/)?levit-deploy (.+)", part))
    ]
    for code in re.findall(r"`([^`\n]+)`", without_code(text)):
        name, _, rest = code.removeprefix("levit-deploy ").partition(" ")
        if code.startswith("levit-deploy ") or (name in OPTIONS and rest.startswith("-")):
            found.append(code.removeprefix("levit-deploy "))
    return [shlex.split(line, comments=True) for line in found]


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}


ROOT_COMMAND = typer.main.get_command(app)
OPTIONS = {name: options_of(command) for name, command in ROOT_COMMAND.commands.items()}
OPTIONS |= {option: set() for option in options_of(ROOT_COMMAND)}
