"""Run commands, in this process or in one of their own."""

import os
import subprocess
import sys

import typer
from typer.testing import CliRunner

from levit_deploy.cli import app

COMMANDS = typer.main.get_command(app).commands


def run(*arguments):
    """Run a command in this process: its exit code, standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def as_process(*arguments):
    """The words that run a command in a process of its own."""
    return [sys.executable, "-m", "levit_deploy", *map(str, arguments)]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def loaded_by(code, **environment):
    """Which of the slow modules a program has loaded at its end."""
    slow = (
        "torch",
        "onnx",
        "onnxruntime",
        "onnxsim",
        "numpy",
        "PIL",
        "rich",
        "matplotlib",
        "sympy",
    )
    code += (
        f"\nimport sys; print([name for name in {slow} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return done.stdout, done.stderr.strip()
