"""A dataclass among a command's parameters is one option for each of its fields."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from levit_deploy.cli.groups import spread


@dataclass(frozen=True, kw_only=True)
class Group:
    fixed: str = "kept"
    size: Annotated[int, typer.Option(help="A size.")] = 1


@dataclass(frozen=True, kw_only=True)
class Wider(Group):
    fixed: Annotated[str, typer.Option(help="Fixed no more.")] = "kept"


def narrow(name: str, *, group: Group, last: bool = False) -> None:
    """Say hello."""
    print(name, group, last)


def wide(name: str, *, group: Wider) -> None:
    print(name, group)


def ran(command, *arguments):
    app = typer.Typer()
    app.command()(spread(command))
    return CliRunner().invoke(app, arguments)


def test_fields_stand_where_the_group_stood():
    assert list(inspect.signature(spread(narrow)).parameters) == ["name", "size", "last"]
    assert list(inspect.signature(spread(wide)).parameters) == ["name", "fixed", "size"]
    assert spread(narrow).__doc__ == "Say hello."


def test_options_reach_the_command_as_a_group():
    assert ran(narrow, "me", "--size", "3").stdout == "me Group(fixed='kept', size=3) False\n"
    assert ran(wide, "me", "--fixed", "x").stdout == "me Wider(fixed='x', size=1)\n"


def test_a_field_that_is_no_option_keeps_its_default():
    assert ran(narrow, "me", "--fixed", "x").exit_code == 2
