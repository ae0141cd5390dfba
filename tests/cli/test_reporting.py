"""How commands report a result, to a person and to a machine."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import as_process, names_in, run
from networks import trained

from levit_deploy import report, text


def test_json_into_a_file_beside_the_table(folder):
    code, out, _ = run("inspect", folder / "ckpt.pth", "--json", folder / "report.json")
    assert code == 0
    assert "family" in out
    assert json.loads((folder / "report.json").read_text())["variant"] == "custom"


def test_quiet_prints_nothing(folder):
    assert run("export", folder / "ckpt.pth", "-q") == (0, "", "")


@pytest.mark.usefixtures("exported")
def test_a_report_never_overwrites(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for arguments in (
        ("inspect", folder / "ckpt.pth", "--json", folder / "ckpt.pth"),
        ("verify", folder / "ckpt.pth", folder / "ckpt.onnx", "--json", folder / "ckpt.onnx"),
        ("export", folder / "ckpt.pth", "-o", folder / "b", "--json", folder / "b"),
        ("fuse", folder / "ckpt.pth", "--json", folder / "no" / "folder.json"),
    ):
        code, _, err = run(*arguments)
        assert (code, "--json" in err or arguments[0] == "export") == (5, True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.usefixtures("full_disk")
def test_what_was_done_is_said_where_its_report_cannot_be_written(folder):
    path, artifact, evidence = folder / "ckpt.pth", folder / "a.onnx", folder / "e.json"
    code, _, err = run("export", path, "-o", artifact, "--json", evidence)
    assert code == 5
    assert f"{artifact} was published and is proven, but" in err
    assert f"{evidence} could not be written: No space left on device" in err
    assert "another place with --json" in err
    assert names_in(folder) == ["a.onnx", "ckpt.pth"]
    code, _, err = run("verify", path, artifact, "--json", evidence)
    assert code == 5
    assert f"{artifact} is proven, but" in err


@pytest.mark.usefixtures("exported", "full_disk")
@pytest.mark.parametrize("report_to", [("--json", "e.json"), ("--json", "-"), ()])
def test_a_failed_proof_is_said_even_where_its_report_cannot_be_written(
    folder, monkeypatch, report_to
):
    monkeypatch.chdir(folder)
    torch.save({"model": trained(seed=3).state_dict()}, "other.pth")
    monkeypatch.setattr(report, "print_verified", lambda *_: report.to_json(None))
    monkeypatch.setattr(text, "write_no_more", lambda _stream: None)  # the tests go on writing
    code, _, err = run("verify", "other.pth", "ckpt.onnx", *report_to)
    assert code == 1
    assert "computes another function than the checkpoint" in err
    assert "could not be written: No space left on device" in err
    assert "proven" not in err


def test_a_report_that_appears_meanwhile_is_kept(folder, monkeypatch):
    path, evidence = folder / "ckpt.pth", folder / "e.json"
    to_json = report.to_json

    def meanwhile(data):
        evidence.write_text("theirs")
        return to_json(data)

    monkeypatch.setattr(report, "to_json", meanwhile)
    code, _, err = run("inspect", path, "--json", evidence)
    assert code == 5
    assert "Add --force to replace it, or name another file with --json" in err
    assert evidence.read_text() == "theirs"
    assert run("inspect", path, "--json", evidence, "--force")[0] == 0
    assert json.loads(evidence.read_text())["family"] == "official"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_exit_5(folder):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            as_process("fuse", folder / "ckpt.pth"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 5
    assert "ckpt.fused.safetensors was published and is proven, but" in done.stderr
    assert "Standard output could not be written: No space left on device" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_standard_output_that_is_closed_is_exit_5(folder):
    closed = ["sh", "-c", 'exec "$@" >&-', "sh"]
    command = [*closed, *as_process("inspect", folder / "ckpt.pth")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "Standard output is closed" in done.stderr
    assert subprocess.run([*command, "-q"]).returncode == 0


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(folder):
    command = as_process("export", folder / "ckpt.pth")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert "ckpt.onnx" in names_in(folder)
