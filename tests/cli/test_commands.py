"""The commands, their help, and completion by the shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import COMMANDS, as_process, loaded_by, run


def test_version_and_help():
    assert run("--version")[1].startswith("levit-deploy ")
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


def test_the_installed_command_and_the_module_are_the_same(folder):
    installed = str(Path(sys.executable).with_name("levit-deploy"))
    arguments = ("inspect", folder / "nowhere.pth")
    for command in ([installed, *arguments], as_process(*arguments)):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 3
        assert "nowhere.pth cannot be read: No such file" in done.stderr


@pytest.mark.parametrize("arguments", [["-h"], ["export", "--help"], ["--version"]])
def test_a_reader_of_help_may_leave_early(arguments):
    with subprocess.Popen(
        as_process(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()  # before Python has started, so before the first word
        err = process.stderr.read()
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize(
    ("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_torch_threads_wait_without_spinning(checkpoint, given, policy):
    """As the library of threads itself tells, once torch has loaded it."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        as_process("inspect", "-q", checkpoint.path),
        capture_output=True,
        text=True,
        env=environment | given | {"OMP_DISPLAY_ENV": "TRUE"},
    )
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reports_to_machines_and_can_be_quiet(command):
    options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert {"--json", "--force", "--quiet", "--verbose"} <= options
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: levit-deploy {command} " in out


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


def test_no_two_options_of_a_command_have_one_name():
    for name, command in COMMANDS.items():
        names = [option for parameter in command.params for option in parameter.opts]
        assert len(names) == len(set(names)), name
