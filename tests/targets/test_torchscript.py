import io
import json
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL, configs, float64_logits, images, trained

import levit_deploy
from levit_deploy.choices import LAYOUTS
from levit_deploy.config import LeViTConfig
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.torchscript_writer import deprecation_accepted, to_torchscript

FEW_ULPS = 16 * 2.0**-23


def program(
    config: LeViTConfig = SMALL, layout: str = "tokens", seed: int = 0, precision: str = "fp32"
) -> bytes:
    model = to_plain(trained(config, seed))
    if layout == "spatial":
        model = to_spatial(model)
    return to_torchscript(
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


def load(data: bytes, extra: dict[str, str] | None = None) -> torch.jit.ScriptModule:
    with deprecation_accepted():
        return torch.jit.load(io.BytesIO(data), _extra_files=extra)


def records(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=FEW_ULPS * np.abs(expected).max())


@settings(deadline=None, max_examples=8)
@given(configs(), st.sampled_from(LAYOUTS), st.integers(0, 99))
def test_it_agrees_with_float64_on_any_architecture(config, layout, seed):
    with torch.inference_mode():
        got = load(program(config, layout, seed))(images(config)).numpy()
    expected = float64_logits(trained(config, seed), images(config))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_batch_size_agrees_with_float64(layout, n):
    with torch.inference_mode():
        got = load(cached(SMALL, layout))(images(n=n)).numpy()
    assert_close(got, float64_logits(trained(), images(n=n)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_batchnorm_and_no_parameter_is_left_in_the_program(layout):
    loaded = load(cached(SMALL, layout))
    kinds = {node.kind() for node in loaded.inlined_graph.nodes()}
    assert "aten::softmax" in kinds
    assert not [kind for kind in kinds if "norm" in kind]
    assert not [kind for kind in kinds if "dropout" in kind]
    assert list(loaded.parameters()) == []  # frozen: weights are constants


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bytes_are_the_same_after_other_traces(layout):
    first = program(SMALL, layout)
    other = SMALL.replace(stages=SMALL.stages[:1], downsamples=())
    for name in LAYOUTS:
        assert program(other, name) != first
    assert program(SMALL, layout) == first


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_archive_says_nothing_of_this_machine(layout):
    found = records(cached(SMALL, layout))
    assert not [name for name in found if name.endswith(".debug_pkl") or "mangle" in name]
    # torch's own sources are named in stack traces; neither they nor ours may be
    paths = [levit_deploy.__file__, torch.__file__, __file__, sys.executable]
    folders = {str(Path(path).parent) for path in paths} | {str(Path.cwd()), str(Path.home())}
    for name, content in found.items():
        if "/constants/" in name:
            continue  # the weights
        assert b"mangle" not in content, name
        assert b".py" not in content, name
        assert not [folder for folder in folders if folder.encode() in content], name


def test_the_archive_holds_a_version_and_is_intact():
    with zipfile.ZipFile(io.BytesIO(cached())) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert len(names) == len(set(names))
    assert any(name.endswith("/version") for name in names)
    assert any(name.endswith("/byteorder") for name in names)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_runs_where_only_torch_is(layout, tmp_path):
    (tmp_path / "program.pt").write_bytes(cached(SMALL, layout))
    torch.save(images(), tmp_path / "images.pt")
    code = """
import sys
for name in ("levit_deploy", "onnx", "networks"):
    sys.modules[name] = None
import torch
program = torch.jit.load("program.pt")
with torch.inference_mode():
    logits = program(torch.load("images.pt", weights_only=True))
torch.save(logits, "logits.pt")
try:
    import levit_deploy
except ImportError:
    print("blocked")
"""
    result = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    )
    assert result.stdout == "blocked\n"
    logits = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert_close(logits.numpy(), float64_logits(trained(), images()))


def test_the_provenance_is_an_extra_file():
    config = SMALL.replace(activation="gelu", bn_eps=1e-3)
    provenance = Provenance(
        checkpoint_sha256="cd" * 32, config=config, head="class", layout="tokens"
    )
    data = to_torchscript(to_plain(trained(config), "class"), provenance)
    extra = {"provenance.json": ""}
    load(data, extra)
    found = json.loads(extra["provenance.json"])
    assert found["tool"].startswith("levit-deploy ")
    assert LeViTConfig.from_json(found["config"]) == config
    assert Provenance.from_metadata(found) == provenance
    plain_zip = [c for name, c in records(data).items() if name.endswith("extra/provenance.json")]
    assert [json.loads(content) for content in plain_zip] == [found]


def test_exporting_does_not_change_the_model():
    model = to_plain(trained())
    before = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    to_torchscript(
        model, Provenance(checkpoint_sha256="0", config=SMALL, head="mean", layout="tokens")
    )
    assert {n: t.numpy().tobytes() for n, t in model.state_dict().items()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())


@settings(deadline=None, max_examples=4)
@given(configs(), st.sampled_from(LAYOUTS), st.integers(0, 99))
def test_in_bfloat16_it_errs_no_more_than_the_original_does(config, layout, seed):
    x, model = images(config), trained(config, seed)
    expected = float64_logits(model, x)
    with torch.inference_mode():
        found = load(program(config, layout, seed, "bf16"))(x)
        own = model.bfloat16()(x.bfloat16()).float().numpy()
    assert found.dtype == torch.float32
    floor = 2.0**-7 * np.abs(expected).max()
    unit = max(floor, np.sqrt(((own - expected) ** 2).mean()))
    assert np.sqrt(((found.numpy() - expected) ** 2).mean()) < 2 * unit


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_inside_is_bfloat16(layout):
    graph = load(cached(SMALL, layout, 0, "bf16")).inlined_graph
    assert [node.kind() for node in graph.nodes()].count("aten::to") == 2
    tensors = [n.t("value") for n in graph.findAllNodes("prim::Constant") if is_tensor(n)]
    assert {t.dtype for t in tensors if t.is_floating_point()} == {torch.bfloat16}
    assert len(cached(SMALL, layout, 0, "bf16")) < len(cached(SMALL, layout))


def is_tensor(node: torch.Node) -> bool:
    return node.hasAttribute("value") and node.kindOf("value") == "t"


@pytest.mark.parametrize("n", [1, 5])
def test_bfloat16_takes_any_batch_and_leaves_the_model_alone(n):
    model = to_plain(trained())
    provenance = Provenance(
        checkpoint_sha256="0", config=SMALL, head="mean", layout="tokens", precision="bf16"
    )
    loaded = load(to_torchscript(model, provenance))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.inference_mode():
        assert loaded(images(n=n)).shape == (n, 7)
