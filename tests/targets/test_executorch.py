"""ExecuTorch programs for XNNPACK. To lower a network takes long, so the tests share few."""

import dataclasses
import gc
import hashlib
import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from example_scripts import check_logits, script
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import configs, float64_logits, golden, images, trained
from scipy.special import softmax

from levit_deploy import pipeline
from levit_deploy.checkpoint import Checkpoint, read_checkpoint
from levit_deploy.config import Downsample, LeViTConfig, Stage
from levit_deploy.errors import ArtifactError, BackendError, UsageError, VerificationError
from levit_deploy.interface import DEFAULT, Interface
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.runtime.artifact import Artifact
from levit_deploy.targets.executorch import EXECUTORCH, load
from levit_deploy.targets.executorch_network import for_xnnpack
from levit_deploy.targets.executorch_writer import facts, to_executorch
from levit_deploy.targets.formats import target_of
from levit_deploy.targets.target import ExportOptions

needed = pytest.mark.executorch
PIXELS = Interface("uint8", "probabilities")
# little to lower, and an odd grid to subsample: 2x3 tokens, then 1x2
TINY = LeViTConfig(
    image_size=(32, 48),
    in_channels=3,
    num_classes=7,
    stem_dims=(2, 4, 6, 12),
    stages=(
        Stage(dim=12, depth=1, num_heads=3, key_dim=4, value_dim=10, mlp_dim=20),
        Stage(dim=16, depth=1, num_heads=2, key_dim=8, value_dim=6, mlp_dim=28),
    ),
    downsamples=(Downsample(num_heads=5, key_dim=4, value_dim=12, mlp_dim=0),),
)
ORIGIN = Provenance(
    checkpoint_sha256="ab" * 32,
    config=TINY,
    head="mean",
    layout="tokens",
    written_with="executorch 1.0, torchao 0.1, torch 2.0",
)
INT8 = dataclasses.replace(ORIGIN, precision="int8")


@cache
def program(interface: Interface = DEFAULT, batch_size: int = 1) -> bytes:
    plain = to_plain(trained(TINY), output=interface.output)
    return to_executorch(plain, dataclasses.replace(ORIGIN, interface=interface), batch_size)


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    torch.save({"model": trained(TINY).state_dict()}, tmp_path / "ckpt.pth")
    return read_checkpoint(tmp_path / "ckpt.pth", image_size=TINY.image_size)


def opened(data: bytes, threads: int | None = None) -> Artifact:
    return load(Path("it.pte"), data, threads, False)


def close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=4e-6 * max(1, np.abs(expected).max()))


@settings(deadline=None, max_examples=15)
@given(configs(), st.integers(1, 3), st.sampled_from(["logits", "feature-maps"]))
def test_the_words_of_xnnpack_say_the_same(config, n, output):
    x = images(config, n)
    plain = to_plain(trained(config), output=output).double()
    with torch.inference_mode():
        expected, got = plain(x.double()), for_xnnpack(plain, n).double()(x.double())
    for one, other in zip(expected, got, strict=True):  # maps or images
        close(other.numpy(), one.numpy())


@needed
def test_it_agrees_with_float64():
    artifact = opened(program())
    for image in images(TINY).split(1):
        close(artifact.run(image.numpy()), float64_logits(trained(TINY), image))


@needed
def test_it_keeps_the_bytes_that_it_reads():
    artifact = load(Path("it.pte"), program()[:1000] + program()[1000:], None, False)
    gc.collect()
    ballast = [bytes([255]) * len(program()) for _ in range(64)]  # in the place of what was freed
    close(artifact.run(images(TINY, 1).numpy()), float64_logits(trained(TINY), images(TINY, 1)))
    assert len(ballast) == 64


@needed
def test_xnnpack_runs_all_of_it_in_one_call():
    assert facts(program()) == {"calls of XNNPACK": 1}


@needed
@pytest.mark.slow
def test_bytes_are_normalised_and_answered_with_probabilities():
    artifact = opened(program(PIXELS, 3))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    mean, std = ORIGIN.transform.statistics()
    normalised = torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2))
    close(artifact.run(pixels), softmax(float64_logits(trained(TINY), normalised), axis=1))
    # XNNPACK has no bytes that are not quantized: a kernel of ExecuTorch's makes them floats
    assert facts(program(PIXELS, 3)) == {
        "calls of XNNPACK": 1,
        "dim_order_ops::_to_dim_order_copy outside": 1,
    }


@needed
def test_it_says_where_it_comes_from():
    artifact = opened(program())
    assert Provenance.from_metadata(artifact.metadata) == ORIGIN
    assert (artifact.format, artifact.batch_size) == ("executorch", 1)
    assert artifact.sha256 == hashlib.sha256(program()).hexdigest()
    assert target_of(program()[:16]) is EXECUTORCH


@needed
def test_nothing_of_this_machine_is_in_it():
    for name in (str(Path.home()), str(Path.cwd()), sys.prefix, ".py", "levit_deploy"):
        assert name.encode() not in program()


@needed
@pytest.mark.slow
def test_another_process_writes_the_same(tmp_path):
    folders = (Path(__file__).parent, Path(__file__).parent.parent, *sys.path)
    surroundings = {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1"}
    surroundings["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    code = "import hashlib, test_executorch as t; print(hashlib.sha256(t.program()).hexdigest())"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | surroundings,
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert printed.strip() == hashlib.sha256(program()).hexdigest()


@needed
def test_it_has_as_many_threads_as_it_may():
    from executorch.extension.pybindings import _C

    for threads in (1, 2):
        opened(program(), threads)
        assert _C._threadpool_get_thread_count() == threads


@needed
@pytest.mark.parametrize(
    "wrong", [images(TINY, 2).numpy(), images(TINY, 1).numpy().transpose(0, 1, 3, 2)]
)
def test_other_batches_and_turned_images_are_refused(wrong):
    with pytest.raises(BackendError, match=r"Expected \(1, 3, 32, 48\) in float32"):
        opened(program()).run(wrong)
    with pytest.raises(BackendError, match="in float64"):
        opened(program()).run(images(TINY, 1).double().numpy())


@needed
def test_a_damaged_file_is_refused():
    data = program()
    broken = (data[:1000], data[:8] + b"\xff" * 100 + data[108:], data[:-5000])
    for damaged in broken:
        with pytest.raises(ArtifactError, match=r"it\.pte cannot be loaded by ExecuTorch"):
            opened(damaged)
    with pytest.raises(ArtifactError, match="missing or damaged provenance"):
        opened(data.replace(b'"config"', b'"Config"'))
    with pytest.raises(ArtifactError, match=r"gives .*Expected float32 logits"):
        opened(data.replace(rb"\"num_classes\": 7", rb"\"num_classes\": 8"))
    with pytest.raises(ArtifactError, match=r"takes .*Expected one batch of images in uint8"):
        opened(data.replace(b'"input": "float32"', b'"input": "uint8"  '))


@needed
@pytest.mark.isolated
@pytest.mark.slow
def test_a_network_of_upstream_is_exported_and_proven(tmp_path):
    path, inputs, logits = golden("official")
    checkpoint, output = read_checkpoint(path), tmp_path / "it.pte"
    two = ExportOptions(batch_size=2)
    published = pipeline.export(checkpoint, "executorch", output, options=two)
    assert published.facts == {"calls of XNNPACK": 1}
    assert pipeline.verify(checkpoint, output).passed
    close(opened(output.read_bytes()).run(inputs[:2].astype(np.float32)), logits[:2])


@needed
@pytest.mark.slow
def test_a_wrong_network_is_refused(tmp_path, checkpoint):
    wrong = to_plain(trained(TINY))
    with torch.no_grad():
        wrong.blocks[0].m.attention_bias.table[1, 2, 3] += 1
    (tmp_path / "it.pte").write_bytes(to_executorch(wrong, ORIGIN, 1))
    assert not pipeline.verify(checkpoint, tmp_path / "it.pte").passed


@needed
@pytest.mark.slow
def test_feature_maps_are_written_and_proven(tmp_path, checkpoint):
    maps = ExportOptions(output="feature-maps", batch_size=2)
    published = pipeline.export(checkpoint, "executorch", tmp_path / "it.pte", options=maps)
    assert published.facts == {"calls of XNNPACK": 1}


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ({"layout": "spatial"}, "--layout spatial is not for --format executorch, but for onnx"),
        ({"options": ExportOptions(opset=17)}, "--opset is not for --format executorch"),
        ({"options": ExportOptions(input_name="x")}, "--input-name is .* for onnx and litert"),
        ({"options": ExportOptions(batch_size="dynamic")}, "--batch-size dynamic is not for"),
        ({"options": ExportOptions(compile=True)}, "--compile is .* but for pt2"),
    ],
)
def test_choices_that_it_lacks_are_refused(choices, why, tmp_path, checkpoint):
    with pytest.raises(UsageError, match=why):
        pipeline.export(checkpoint, "executorch", tmp_path / "it.pte", **choices)


def test_without_the_package_one_line_tells_how_to_get_it(tmp_path, checkpoint, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "executorch" else find_spec(name)
    )
    line = r"executorch.*pip install -c constraints\.txt '\.\[executorch\]'"
    with pytest.raises(UsageError, match=f"The format executorch needs {line}"):
        pipeline.export(checkpoint, "executorch", tmp_path / "it.pte")
    (tmp_path / "it.pte").write_bytes(b"\x1c\0\0\0ET12" + bytes(100))
    with pytest.raises(UsageError, match=f"it.pte needs {line}"):
        pipeline.verify(checkpoint, tmp_path / "it.pte")


@cache
def int8_program() -> bytes:
    """Rounded by ranges on noise."""
    from levit_deploy.targets.executorch_int8 import rounded

    write = rounded(to_plain(trained(TINY)), INT8, 1, images(TINY, 8).numpy())
    return write(INT8.to_metadata() | {"accuracy": "known later"})


def standard(data: bytes):
    from levit_deploy.targets.executorch_int8 import int8_standard

    return int8_standard(to_plain(trained(TINY)), INT8, 1, Path("it.pte"), data)


@needed
@pytest.mark.slow
def test_an_int8_program_is_made_again_from_the_network_and_its_metadata():
    made = standard(int8_program())
    assert made.unrounded == program()
    artifact = opened(int8_program())
    assert artifact.metadata["accuracy"] == "known later"
    x = images(TINY, 8)
    expected = float64_logits(trained(TINY), x)
    literal = np.concatenate([made.literal(image.numpy()) for image in x.split(1)])
    computed = np.concatenate([artifact.run(image.numpy()) for image in x.split(1)])
    error = np.sqrt(np.mean((literal - expected) ** 2))
    assert 0.001 < error / expected.std() < 0.2
    # XNNPACK rounds to other neighbours, here and there
    assert np.sqrt(np.mean((literal - computed) ** 2)) < 2 * error


@needed
@pytest.mark.slow
def test_an_int8_program_of_other_numbers_is_refused():
    data = int8_program()
    wrong = data[:-200] + bytes([data[-200] ^ 1]) + data[-199:]
    with pytest.raises(VerificationError, match="is not the checkpoint's network, rounded"):
        standard(wrong)
    with pytest.raises(VerificationError, match="written with executorch 9"):
        standard(wrong.replace(b"executorch 1", b"executorch 9"))
    with pytest.raises(ArtifactError, match="has no scales of its activations"):
        standard(data.replace(b'"scales"', b'"Scales"'))
    with pytest.raises(ArtifactError, match="scales in its metadata that are not positive"):
        standard(data.replace(b'"scales": "[[0.', b'"scales": "[[-.').replace(b"[[-.", b"[[-1"))


@needed
@pytest.mark.slow
def test_the_example_prints_what_it_computes(tmp_path):
    (tmp_path / "it.pte").write_bytes(program())
    np.save(tmp_path / "x.npy", images(TINY).numpy())
    # ExecuTorch and torchao warn of their own code
    printed = script(
        "run_executorch.py", tmp_path / "it.pte", tmp_path / "x.npy", warnings="ignore"
    )
    check_logits(printed, trained(TINY), images(TINY).numpy())
