import io
import json
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import names_in, run
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SHALLOW, TINY, configs, float64_logits, images, trained

import levit_deploy
from levit_deploy import pipeline
from levit_deploy.choices import LAYOUTS
from levit_deploy.config import LeViTConfig
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets import processor
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.pt2_writer import to_pt2, torch_kept_quiet
from levit_deploy.targets.target import ExportOptions

FEW_ULPS = 16 * 2.0**-23


def program(
    config: LeViTConfig = SHALLOW, layout: str = "tokens", seed: int = 0, precision: str = "fp32"
) -> bytes:
    model = to_plain(trained(config, seed))
    if layout == "spatial":
        model = to_spatial(model)
    return to_pt2(
        model,
        Provenance(
            checkpoint_sha256="ab" * 32,
            config=config,
            head="mean",
            layout=layout,
            precision=precision,
        ),
    )


cached = cache(program)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a checkpoint of the same network."""
    torch.save({"model": trained(SHALLOW).state_dict()}, tmp_path / "ckpt.pth")
    return tmp_path


def load(data: bytes, extra: dict[str, str] | None = None) -> torch.export.ExportedProgram:
    with torch_kept_quiet():
        return torch.export.load(io.BytesIO(data), extra_files=extra)


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=FEW_ULPS * np.abs(expected).max())


@settings(deadline=None, max_examples=3)
@given(configs(), st.sampled_from(LAYOUTS), st.integers(0, 99))
def test_it_agrees_with_float64_on_any_architecture(config, layout, seed):
    with torch.inference_mode():
        got = load(program(config, layout, seed)).module()(images(config)).numpy()
    expected = float64_logits(trained(config, seed), images(config))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("layout", "precision"), [("tokens", "fp32"), ("spatial", "fp32"), ("tokens", "bf16")]
)
def test_any_batch_size_agrees_with_float64(layout, precision):
    loaded = load(cached(SHALLOW, layout, 0, precision)).module()
    for n in (1, 2, 5, 17, 64):
        with torch.inference_mode():
            got = loaded(images(n=n)).numpy()
        expected = float64_logits(trained(SHALLOW), images(n=n))
        if precision == "fp32":
            assert_close(got, expected)
        else:
            np.testing.assert_allclose(got, expected, rtol=0, atol=0.1 * np.abs(expected).max())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_asked_of_the_batch(layout):
    loaded = load(cached(SHALLOW, layout))
    (batch,) = loaded.range_constraints.values()
    assert (batch.lower, str(batch.upper)) == (1, "int_oo")
    kinds = {str(node.target) for node in loaded.graph.nodes if node.op == "call_function"}
    assert "aten.softmax.int" in kinds
    assert not [kind for kind in kinds if "norm" in kind or "sym" in kind or "assert" in kind]
    with pytest.raises(AssertionError, match=r"size\(\)\[2\] == 64"):  # the image has one size
        loaded.module()(images().transpose(2, 3))


def test_no_weight_is_to_be_trained():
    assert not any(tensor.requires_grad for tensor in load(cached()).state_dict.values())
    model = to_plain(trained(TINY))
    before = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    to_pt2(model, Provenance(checkpoint_sha256="0", config=TINY, head="mean", layout="tokens"))
    assert {n: t.numpy().tobytes() for n, t in model.state_dict().items()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_everything_inside_is_bfloat16():
    loaded = load(cached(SHALLOW, "tokens", 0, "bf16"))
    kinds = [str(node.target) for node in loaded.graph.nodes]
    assert len([kind for kind in kinds if kind.startswith("aten.to.") or "_to_copy" in kind]) == 2
    assert {tensor.dtype for tensor in loaded.state_dict.values()} == {torch.bfloat16}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_archive_says_nothing_of_this_machine(layout):
    paths = [levit_deploy.__file__, torch.__file__, __file__, sys.executable]
    folders = {str(Path(path).parent) for path in paths} | {str(Path.cwd()), str(Path.home())}
    with zipfile.ZipFile(io.BytesIO(cached(SHALLOW, layout))) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            content = archive.read(name)
            assert b".py" not in content, name
            assert not [folder for folder in folders if folder.encode() in content], name


def test_it_runs_where_only_torch_is(tmp_path):
    (tmp_path / "program.pt2").write_bytes(cached())
    torch.save(images(), tmp_path / "images.pt")
    code = """
import sys
for name in ("levit_deploy", "onnx", "networks"):
    sys.modules[name] = None
import torch
program = torch.export.load("program.pt2").module()
with torch.inference_mode():
    logits = program(torch.load("images.pt", weights_only=True))
torch.save(logits, "logits.pt")
"""
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=True)
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert_close(logits.numpy(), float64_logits(trained(SHALLOW), images()))


def test_the_provenance_is_an_extra_file():
    extra = {"provenance.json": ""}
    load(cached(), extra)
    found = json.loads(extra["provenance.json"])
    assert found["tool"].startswith("levit-deploy ")
    assert Provenance.from_metadata(found).config == SHALLOW


def test_a_failed_proof_names_the_block(tmp_path, checkpoint):
    model = to_plain(checkpoint.model)
    model.blocks[4].m.proj[1].bias.data[0] += 1
    provenance = Provenance(checkpoint_sha256="0", config=SHALLOW, head="mean", layout="tokens")
    (tmp_path / "wrong.pt2").write_bytes(to_pt2(model, provenance))
    parting = pipeline.verify(checkpoint, tmp_path / "wrong.pt2").parting
    assert (parting.after, parting.block) == ("blocks.3.m", "blocks.4.m")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (ExportOptions(opset=17), "--opset"),
        (ExportOptions(batch_size=1), "--batch-size"),
        (ExportOptions(input_name="x"), "--input-name"),
    ],
)
def test_options_of_other_formats_are_refused(tmp_path, checkpoint, options, named):
    with pytest.raises(UsageError, match=f"{named} is not for --format pt2, but for onnx"):
        pipeline.export(checkpoint, "pt2", tmp_path / "a.pt2", options=options)


@pytest.mark.isolated
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_proven_in_a_process_of_its_own_without_a_warning(
    tmp_path, checkpoint, precision, recwarn
):
    path = tmp_path / "a.pt2"
    published = pipeline.export(checkpoint, "pt2", path, precision=precision)
    assert published.verification.passed
    assert published.verification.runtime == "torch.export"
    assert not recwarn.list


def test_without_a_compiler_the_message_names_it(folder, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    code, _, err = run("export", folder / "ckpt.pth", "--format", "pt2", "--compile")
    assert code == 2
    assert "needs a C++ compiler, and g++ is not installed. Install it" in err
    assert names_in(folder) == ["ckpt.pth"]


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_other_formats_are_not_compiled(checkpoint, tmp_path, format):
    with pytest.raises(UsageError, match=f"--compile is not for --format {format}, but for pt2"):
        pipeline.export(checkpoint, format, tmp_path / "a", options=ExportOptions(compile=True))


def test_a_claim_to_be_compiled_is_held_to_this_processor(tmp_path, monkeypatch):
    provenance = Provenance(
        checkpoint_sha256="0", config=TINY, head="mean", layout="tokens", processor="avx512"
    )
    (tmp_path / "a.pt2").write_bytes(to_pt2(to_plain(trained(TINY)), provenance))
    monkeypatch.setattr(processor, "_flags", lambda: {"avx2"})
    with pytest.raises(ArtifactError, match="x86-64-v4, and this one lacks avx, bmi1"):
        load_artifact(tmp_path / "a.pt2")
