"""Write docs/cli.md, the reference of every command: ``python docs/make_cli.py``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.main import get_command
from typer.models import ArgumentInfo, OptionInfo

from levit_deploy import errors
from levit_deploy.cli import app
from levit_deploy.cli.exits import BUG, INTERRUPTED

PAGE = Path(__file__).with_name("cli.md")
METAVARS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def reference() -> str:
    """The page: each command with its arguments and options, and the exit codes."""
    commands = {info.callback.__name__: info.callback for info in app.registered_commands}
    summaries = ((f"[`{name}`](#{name})", _texts(run)[0]) for name, run in commands.items())
    lines = [
        "# Command line",
        "",
        "Every command with its arguments and options. `python docs/make_cli.py` writes this page.",
        "",
        *_table(("command", "does"), summaries),
    ]
    for name, run in commands.items():
        lines += ["", f"## {name}", "", *_command(name, run)]
    lines += ["", "## Exit codes", "", *_table(("code", "meaning"), _exit_codes())]
    return "\n".join(lines) + "\n"


def _texts(run: Any) -> list[str]:
    """The paragraphs of a command's help."""
    return [paragraph.replace("\n", " ") for paragraph in str(inspect.getdoc(run)).split("\n\n")]


def _command(name: str, run: Any) -> Iterator[str]:
    """Usage, description, example, and a table of arguments and options."""
    rows = list(_rows(name, run))
    arguments = " ".join(term for term, _ in rows if not term.startswith("-"))
    *paragraphs, example = _texts(run)
    yield from ("```", f"levit-deploy {name} [OPTIONS] {arguments}", "```")
    for paragraph in paragraphs:
        yield from ("", paragraph)
    yield from ("", f"Example: `{example.removeprefix('Example: ')}`", "")
    yield from _table(("option", "meaning"), ((f"`{term}`", text) for term, text in rows))


def _rows(name: str, run: Any) -> Iterator[tuple[str, str]]:
    """Each argument or option as you type it, and its help with its range and default."""
    hints = get_type_hints(run, include_extras=True)
    names = {p.name: ", ".join(p.opts) for p in get_command(app).commands[name].params}
    for parameter, signature in inspect.signature(run).parameters.items():
        kind, info = get_args(hints[parameter])[:2]
        text, default = f"{info.help}{_range(info)}", signature.default
        if isinstance(default, str | int | Path) and default is not False:
            text += f" Default: `{default}`."
        if isinstance(info, ArgumentInfo):
            term = f"[{info.metavar}]" if isinstance(default, Path) else str(info.metavar)
        else:
            term = " ".join([names[parameter], *_metavar(kind, info)])
        yield term, text


def _range(info: ArgumentInfo | OptionInfo) -> str:
    if info.min is None:
        return ""
    return f" {info.min} or more." if info.max is None else f" {info.min} to {info.max}."


def _metavar(kind: Any, info: OptionInfo) -> list[str]:
    """The placeholder for an option's value; none for a flag."""
    kinds = [kind] if get_origin(kind) is Literal else [*get_args(kind), kind]
    value = next(kind for kind in kinds if kind is not NoneType)
    if value is bool:
        return []
    if get_origin(value) is Literal:
        return ["|".join(get_args(value))]
    return [info.metavar or METAVARS[value]]


def _exit_codes() -> Iterator[tuple[str, str]]:
    """Every code with its meaning, which our errors have in their docstrings."""
    meanings = {0: "Done. An artifact that was written or verified is proven."}
    for kind in vars(errors).values():
        if isinstance(kind, type) and "exit_code" in vars(kind):
            meanings[kind.exit_code] = str(inspect.getdoc(kind)).split("\n")[0]
    meanings[BUG] = "A bug in levit-deploy. Please report it with the output of -v."
    meanings[INTERRUPTED] = "Interrupted, or ended by a signal."
    for code in sorted(meanings):
        yield str(code), meanings[code]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "| --- | --- |"
    for row in rows:
        first, second = (cell.replace("|", r"\|") for cell in row)
        yield f"| {first} | {second} |"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
