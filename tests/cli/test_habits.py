"""What every command has in common, on a terminal, in a pipe, and in a notebook."""

import inspect
import os
import re
import subprocess
import sys

import pytest
import typer
from networks import golden

import levit_deploy
from levit_deploy import errors
from levit_deploy.cli import app

COMMANDS = typer.main.get_command(app).commands
COLOUR = re.compile(r"\x1b\[[\d;]*3\d[\d;]*m")


def errors_on_a_terminal(*command, **environment):
    """What Python, so called, writes to standard error where that is a terminal."""
    pty = pytest.importorskip("pty", reason="the system has no terminals of this kind")
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color"} | environment
    command = [sys.executable, *map(str, command)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while more := os.read(ours, 4096):
                written += more
        except OSError:  # the terminal is gone with the process
            pass
    os.close(ours)
    assert process.returncode == 0
    return written.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reports_to_machines_and_can_be_quiet(command):
    options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert {"--json", "--force", "--quiet", "--verbose"} <= options
    assert f"Example: levit-deploy {command} " in COMMANDS[command].help


SHOW = "from levit_deploy.cli.status import status\nwith status('proving [b]x', quiet={}): pass"


def test_a_terminal_is_told_what_is_being_done_and_nothing_else_is():
    written = errors_on_a_terminal("-c", SHOW.format(False))
    assert "proving [b]x" in written
    assert COLOUR.search(written)
    written = errors_on_a_terminal("-c", SHOW.format(False), NO_COLOR="1")
    assert "proving [b]x" in written
    assert not COLOUR.search(written)

    assert errors_on_a_terminal("-c", SHOW.format(True)) == ""
    piped = subprocess.run([sys.executable, "-c", SHOW.format(False)], capture_output=True)
    assert piped.stdout + piped.stderr == b""


@pytest.mark.slow
def test_a_command_says_what_it_is_at(tmp_path):
    path, _, _ = golden("official")
    command = ("-m", "levit_deploy", "fuse", path, "-o", tmp_path / "out")
    written = errors_on_a_terminal(*command, COLUMNS="500")
    assert written.index(f"reading {path}") < written.index(f"writing and proving {tmp_path}")
    assert "\x1b[2K" in written[-20:]  # the line is empty again


def loaded_by(code, **environment):
    """Which of the slow modules a program has loaded at its end."""
    slow = ("torch", "onnx", "onnxruntime", "numpy", "PIL", "matplotlib")
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


RUN = (
    "from levit_deploy.cli import app\n"
    "try: app({!r}, prog_name='levit-deploy')\n"
    "except SystemExit: pass"
)


def test_help_and_version_wait_for_nothing_slow():
    for arguments in (["--help"], ["export", "--help"], ["--version"]):
        out, loaded = loaded_by(RUN.format(arguments))
        assert "levit-deploy" in out
        assert loaded == "[]"


def test_the_shell_completes_commands_and_options_and_waits_for_nothing_slow():
    asked = {"_LEVIT_DEPLOY_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    out, loaded = loaded_by(RUN.format([]), **asked, COMP_WORDS="levit-deploy ver")
    assert (out.split(), loaded) == (["verify"], "[]")
    asked["COMP_CWORD"] = "2"
    out, _ = loaded_by(RUN.format([]), **asked, COMP_WORDS="levit-deploy verify --rep")
    assert out.split() == ["--report"]


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("export --layout t", ["tokens"]),
        ("export --output-type p", ["probabilities"]),
        ("export --opset 2", ["20", "21", "22", "23"]),
        ("bench LeViT-1", ["LeViT-128S", "LeViT-128", "LeViT-192"]),
        ("bench ckpt", []),  # which the shell completes as a file
    ],
)
def test_the_shell_completes_values_and_waits_for_nothing_slow(words, completed):
    asked = {"_LEVIT_DEPLOY_COMPLETE": "complete_bash", "COMP_CWORD": str(words.count(" ") + 1)}
    out, loaded = loaded_by(RUN.format([]), **asked, COMP_WORDS=f"levit-deploy {words}")
    assert (out.split(), loaded) == (completed, "[]")


def test_the_opsets_completed_are_those_there_are():
    from levit_deploy.cli import options
    from levit_deploy.targets.onnx_writer import OPSETS

    assert list(options.OPSETS) == list(OPSETS)


def helps(command):
    """The help of each option of a command, in one line."""
    parameters = COMMANDS[command].params
    return {p.name: p.help for p in parameters}


def test_only_commands_that_know_int8_speak_of_it():
    assert {name for name in COMMANDS if "int8" in (helps(name).get("images") or "")} == {
        "export",
        "verify",
    }


def test_completion_is_installed_in_the_home_folder(tmp_path):
    code = (
        "from levit_deploy.cli import app; "
        "app(['--install-completion', 'bash'], prog_name='levit-deploy')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ
        | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "levit-deploy" in (tmp_path / ".bash_completions" / "levit-deploy.sh").read_text()


def test_the_package_is_imported_at_once_and_its_names_when_they_are_used():
    assert loaded_by("import levit_deploy; dir(levit_deploy)") == ("", "[]")
    _, loaded = loaded_by("import levit_deploy; levit_deploy.load")
    assert "torch" in loaded
    assert set(levit_deploy.__all__) <= set(dir(levit_deploy))


def test_what_annotations_and_handlers_need_can_be_imported():
    for name in levit_deploy.__all__:
        assert getattr(levit_deploy, name).__module__.startswith("levit_deploy.")
    named = {name for name in vars(errors) if name.endswith("Error")}
    named |= {"Checkpoint", "ExportOptions", "Int8Options", "TritonModel"}  # what functions take
    named |= {"Evaluation", "Prediction", "Published", "Verification"}
    named |= {"Answer", "Case", "Disagreement", "Quantization"}  # and give
    assert named <= set(levit_deploy.__all__)


@pytest.mark.parametrize(
    "name", ["load", "fuse", "export", "verify", "quantize", "predict", "evaluate"]
)
def test_a_notebook_is_told_what_each_function_takes_and_gives(name):
    function = getattr(levit_deploy, name)
    signature = inspect.signature(function)
    assert inspect.getdoc(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty


def test_no_two_options_of_a_command_have_one_name():
    from typer.main import get_command

    for name, command in get_command(app).commands.items():
        names = [option for parameter in command.params for option in parameter.opts]
        assert len(names) == len(set(names)), name
