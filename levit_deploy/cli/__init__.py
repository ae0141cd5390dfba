"""The command line."""

from levit_deploy.cli.commands import app, main

__all__ = ["app", "main"]
