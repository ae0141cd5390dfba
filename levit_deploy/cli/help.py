"""Commands whose help may lose its reader, as in ``levit-deploy -h | head``."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

from levit_deploy.text import writing_output


class Command(TyperCommand):
    """One command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; it succeeds if the reader has seen enough."""
        with writing_output():
            super().format_help(ctx, formatter)


class Group(TyperGroup):
    """The commands, together."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; it succeeds if the reader has seen enough."""
        with writing_output():
            super().format_help(ctx, formatter)
