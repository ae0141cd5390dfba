"""How a command ends: one paragraph and an exit code, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import as_process, names_in, run
from networks import trained
from safetensors.torch import save_file

from levit_deploy.targets import plan
from levit_deploy.verification import prove as prove_module


def broken(folder, change):
    state = trained().state_dict()
    change(state)
    torch.save({"model": state}, folder / "broken.pth")
    return folder / "broken.pth"


def other_network(folder):
    save_file({"conv1.weight": torch.ones(4, 3, 7, 7), "fc.bias": torch.ones(9)}, folder / "r.sft")
    return folder / "r.sft"


def text_file(folder):
    (folder / "notes.pth").write_text("no weights here")
    return folder / "notes.pth"


ONE = torch.ones(1)
TIMM = {"stem.conv1.linear.weight": ONE}
REFUSED = {
    "missing file": (lambda folder: folder / "nowhere.pth", "cannot be read"),
    "a folder of neither library": (lambda folder: folder, "has no model.safetensors"),
    "names of two families": (
        lambda folder: broken(folder, lambda state: state.update(TIMM)),
        "the names of official and timm at once",
    ),
    "a name twice": (
        lambda folder: broken(folder, lambda state: state.update({"module.head.bn.bias": ONE})),
        "holds head.bn.bias twice",
    ),
    "not a checkpoint": (text_file, "not a checkpoint"),
    "another network": (other_network, "conv1.weight"),
    "a missing key": (
        lambda folder: broken(folder, lambda state: state.pop("blocks.0.m.qkv.bn.weight")),
        "missing blocks.0.m.qkv.bn.weight",
    ),
    "a surplus key": (
        lambda folder: broken(folder, lambda state: state.update(extra=torch.ones(1))),
        "another tensor: extra",
    ),
    "a wrong shape": (
        lambda folder: broken(folder, lambda state: state.update({"head.bn.bias": torch.ones(5)})),
        "head.bn.bias (5 instead of 18)",
    ),
    "NaN weights": (
        lambda folder: broken(folder, lambda state: state["head.l.weight"].fill_(torch.nan)),
        "head.l.weight holds NaN",
    ),
    "a negative variance": (
        lambda folder: broken(folder, lambda state: state["head.bn.running_var"].fill_(-1)),
        "head.bn.running_var",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("command", ["fuse", "export"])
def test_bad_checkpoints_are_refused_in_one_paragraph(folder, case, command):
    make, expected = REFUSED[case]
    path = make(folder)
    before = names_in(folder)
    code, out, err = run(command, path, "-o", folder / "output")
    assert code == 3
    assert out == ""
    assert expected in err
    assert err.startswith("levit-deploy: ")
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert names_in(folder) == before


def test_names_in_a_file_do_nothing_to_the_terminal(folder):
    forged = "patch\x1b[2Jx\n\nlevit-deploy: all is well\u202e"
    path = broken(folder, lambda state: state.update({forged: ONE}))
    code, _, err = run("inspect", path)
    assert code == 3
    assert r"patch\x1b[2Jx\n\nlevit-deploy: all is well\u202e" in err
    assert len(err.strip().splitlines()) == 1


def test_code_in_a_checkpoint_is_refused_as_unsafe(folder):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {folder}/fired",)

    torch.save({"model": Payload()}, folder / "evil.pth")
    code, _, err = run("inspect", folder / "evil.pth")
    assert code == 4
    assert "system" in err
    assert "fired" not in names_in(folder)


def test_a_bug_of_ours_exits_with_70_and_hides_its_traceback(folder, monkeypatch):
    def bug(*_args, **_kwargs):
        raise ZeroDivisionError("oh no")

    monkeypatch.setattr(plan, "to_plain", bug)
    code, _, err = run("export", folder / "ckpt.pth")
    assert code == 70
    assert "ZeroDivisionError: oh no" in err
    assert "Traceback" not in err
    assert names_in(folder) == ["ckpt.pth"]
    assert "Traceback" in run("export", folder / "ckpt.pth", "-v")[2]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 6)])
def test_interruption_and_exhaustion_have_their_codes(folder, monkeypatch, error, code):
    def stop(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(prove_module, "measure", stop)
    assert run("export", folder / "ckpt.pth")[0] == code
    assert names_in(folder) == ["ckpt.pth"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_exit_code_does_not_wait_for_its_message(folder):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(as_process("inspect", folder / "nowhere.pth"), stderr=full)
    assert done.returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130_and_leaves_nothing(folder, number):
    command = as_process("export", folder / "ckpt.pth")
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # what runs in the background, as a CI may run the tests, ignores interrupts
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        while not any(name.endswith(".tmp") for name in names_in(folder)):
            assert process.poll() is None, "it ended before it could be interrupted"
            time.sleep(0.005)
        process.send_signal(number)
        err = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in err
    assert names_in(folder) == ["ckpt.pth"]


def test_a_signal_that_is_ignored_stays_so():
    script = (
        "import os, signal; from levit_deploy.cli.exits import reports_errors;"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "reports_errors(lambda: os.kill(os.getpid(), signal.SIGHUP))(); print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_disturb_the_tidying_up(number):
    script = (
        "import os, signal; from levit_deploy.cli.exits import reports_errors\n"
        # nohup has it ignored, and that stays so
        f"signal.signal({number:d}, signal.default_int_handler)\n"
        "def command():\n"
        f"    try:\n        os.kill(os.getpid(), {number:d})\n"
        f"    finally:\n        os.kill(os.getpid(), {number:d}); print('tidied up')\n"
        "reports_errors(command)()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "tidied up\n"
    assert "interrupted" in done.stderr
