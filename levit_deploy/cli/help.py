"""Commands whose help may lose its reader, as in ``levit-deploy -h | head``."""

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from levit_deploy.text import writing_output


class Command(TyperCommand):
    """One command."""

    def get_help(self, ctx: Any) -> str:
        """Print the help; it succeeds if the reader has seen enough. Nothing is left to print."""
        return _printed(super().get_help(ctx))


class Group(TyperGroup):
    """The commands, together."""

    def get_help(self, ctx: Any) -> str:
        """As for ``Command``."""
        return _printed(super().get_help(ctx))


def _printed(text: str) -> str:
    with writing_output():
        typer.echo(text)
    return ""
