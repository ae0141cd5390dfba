"""Run commands in this process."""

from typer.testing import CliRunner

from levit_deploy.cli import app

COMMANDS = ("inspect", "fuse", "export", "verify", "predict", "evaluate", "demo")


def run(*arguments):
    """Run a command in this process: its exit code, standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())
