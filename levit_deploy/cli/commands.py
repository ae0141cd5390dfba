"""The commands, together. Heavy imports wait until a command needs them."""

import os
from typing import Annotated

import typer

from levit_deploy._version import __version__
from levit_deploy.cli.bench import bench
from levit_deploy.cli.demo import demo
from levit_deploy.cli.evaluate import evaluate
from levit_deploy.cli.exits import reports_errors
from levit_deploy.cli.export import export
from levit_deploy.cli.fuse import fuse
from levit_deploy.cli.groups import spread
from levit_deploy.cli.help import Command, Group
from levit_deploy.cli.inspect import inspect
from levit_deploy.cli.optimize import optimize
from levit_deploy.cli.predict import predict
from levit_deploy.cli.verify import verify
from levit_deploy.memory import collect_rarely, share_freed
from levit_deploy.text import writing_output

app = typer.Typer(
    cls=Group,
    help="Turn a trained LeViT into the fastest artifact your runtime can run, with proof.",
    no_args_is_help=True,
    rich_markup_mode=None,  # boxes are of rich, whose import takes a third of the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        with writing_output():
            typer.echo(f"levit-deploy {__version__}")
        raise typer.Exit


for _command in (inspect, optimize, fuse, export, verify, bench, predict, evaluate, demo):
    _summary = (_command.__doc__ or "").partition("\n")[0]
    app.command(cls=Command, short_help=_summary)(reports_errors(spread(_command)))


def main() -> None:
    """The ``levit-deploy`` command."""
    # torch's idle threads would spin, and take the processor from all others on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    share_freed()
    collect_rarely()
    app()
