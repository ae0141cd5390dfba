"""Native code, made by AOTInductor: a minute for each file, so one serves most tests."""

import io
import json
import os
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import as_process
from networks import TINY, float64_logits, images, trained

from levit_deploy import pipeline
from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.errors import ArtifactError, BackendError, UsageError
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets import pt2_compile
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.processor import this_kind
from levit_deploy.targets.pt2_writer import to_pt2
from levit_deploy.targets.target import ExportOptions

pytestmark = pytest.mark.study  # .ci/run has the first alone: each worker would compile


def export(folder: Path, name: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
    """Compile in a process of its own, with a home and a folder for temporary files of its own."""
    for place in ("home", "temporary"):
        (folder / place).mkdir(exist_ok=True)
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")}
    arguments = ("--image-size", "32", "--format", "pt2", "--compile", "-o", folder / name)
    return subprocess.run(
        as_process("export", folder / "ckpt.pth", *arguments),
        env=os.environ | places | surroundings,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A folder with a checkpoint, and what was made of it."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    try:
        kind = this_kind()
    except UsageError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("compiled")
    torch.save(trained(TINY).state_dict(), folder / "ckpt.pth")
    done = export(folder, "a.pt2")
    assert done.returncode == 0, done.stderr
    wanted = ", ".join((kind.level, *kind.extra))
    assert done.stderr == f"note: compiled for processors with {wanted}, and no others\n"
    assert "a.pt2: pt2 in AOTInductor, fp32" in done.stdout
    return folder


@pytest.fixture
def tiny(compiled) -> Checkpoint:
    return read_checkpoint(compiled / "ckpt.pth", image_size=(32, 32))


@pytest.mark.cpp
def test_nothing_else_is_written(compiled):
    folders = (compiled / "home", compiled / "temporary")
    left = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    # onnxruntime writes these, whatever it is told
    assert not [path for path in left if path.name != ".ses" and "onnxruntime" not in str(path)]


def test_any_batch_agrees_with_float64_and_the_rest_is_refused(compiled):
    artifact = load_artifact(compiled / "a.pt2")
    assert artifact.batch_size is None
    for n in (1, 2, 17):
        expected = float64_logits(trained(TINY), images(TINY, n))
        found = artifact.run(images(TINY, n).numpy())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(BackendError, match="Expected"):
        artifact.run(np.zeros((1, 3, 32, 64), np.float32))


@pytest.mark.isolated
def test_the_file_runs_in_a_process_of_its_own(compiled, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert pipeline.verify(tiny, compiled / "a.pt2").passed
    assert list(tmp_path.iterdir()) == []


def test_the_file_says_what_it_is_for_and_nothing_of_this_machine(compiled):
    data = (compiled / "a.pt2").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert not [name for name in archive.namelist() if ".cpp" in name]
        metadata = json.loads(archive.read("archive/extra/provenance.json"))
    assert metadata["processor"] == str(this_kind())
    assert metadata["runtime"] == "AOTInductor"
    for path in (compiled, Path(torch.__file__).parent, Path(pt2_compile.__file__).parent):
        assert str(path).encode() not in data


def test_a_wrong_file_is_refused_and_no_block_is_blamed(compiled, tiny):
    other = replace(tiny, model=trained(TINY, seed=3))
    verification = pipeline.verify(other, compiled / "a.pt2")
    assert not verification.passed
    assert verification.parting is None


def test_a_file_without_its_code_is_refused(compiled, tmp_path):
    data = (compiled / "a.pt2").read_bytes()
    (tmp_path / "a.pt2").write_bytes(data.replace(b"model.wrapper.so", b"model.wrapper.os"))
    with pytest.raises(ArtifactError, match=r"loaded as a program of torch\.export"):
        load_artifact(tmp_path / "a.pt2")


def test_a_compiler_that_fails_is_told(tmp_path, monkeypatch):
    (tmp_path / "g++").write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _name: str(tmp_path / "g++"))
    provenance = Provenance(checkpoint_sha256="0", config=TINY, head="mean", layout="tokens")
    program = to_pt2(to_plain(trained(TINY)), provenance)
    with pytest.raises(BackendError, match=r"could not compile the network with .*g\+\+: "):
        pt2_compile.compiled(program, this_kind(), provenance)


def test_another_process_writes_the_same_bytes(compiled):
    surroundings = {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1", "TZ": "UTC1"}
    assert export(compiled, "b.pt2", **surroundings).returncode == 0
    assert (compiled / "b.pt2").read_bytes() == (compiled / "a.pt2").read_bytes()


@pytest.mark.parametrize("output", ["probabilities", "feature-maps"])
def test_other_ends_in_bfloat16_are_proven(compiled, tmp_path, output):
    options = ExportOptions(input="uint8", output=output, compile=True)
    told = read_checkpoint(
        compiled / "ckpt.pth", image_size=(32, 32), preprocessing="mean 0.4, std 0.2"
    )
    published = pipeline.export(told, "pt2", tmp_path / "a.pt2", precision="bf16", options=options)
    assert published.verification.passed
