"""What a command is at, said on a terminal and nowhere else."""

import os
import re
import subprocess
import sys

import pytest
from networks import golden

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
