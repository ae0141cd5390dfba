"""A target's own library rounds a network as a whole: a toy one, from a checkpoint to a file."""

import dataclasses

import numpy as np
import pytest
import torch
from float_graphs import centred, save_pictures
from networks import SHALLOW
from rich.console import Console
from toy_target import TOY

import levit_deploy
from levit_deploy.errors import UsageError, VerificationError
from levit_deploy.quantization.quantize import Int8Options
from levit_deploy.report import print_published, published_data
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.load import load_artifact

CONFIG = SHALLOW.replace(image_size=(32, 32))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(TARGETS, "toy", TOY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    save_pictures(folder / "pictures", CONFIG.num_classes - 1, each=8)
    torch.save({"model": centred(CONFIG).state_dict()}, folder / "ckpt.pth")
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder):
    return levit_deploy.load(folder / "ckpt.pth", image_size=CONFIG.image_size)


def quantize(checkpoint, folder, output, precision="int8-dynamic", max_drop=45.0):
    options = Int8Options(folder / "pictures", max_drop, even_if_slower=True)
    return levit_deploy.quantize(checkpoint, output, options, format="toy", precision=precision)


@pytest.mark.parametrize(("precision", "judged"), [("int8", 36), ("int8-dynamic", 48)])
def test_it_is_written_judged_and_proven(checkpoint, folder, tmp_path, precision, judged):
    published = quantize(checkpoint, folder, tmp_path / "it.toy", precision)
    proof, how = published.verification, published.quantization
    assert (proof.precision, proof.passed, proof.unrounded.passed) == (precision, True, True)
    assert proof.accuracy == how.accuracy
    assert proof.accuracy.pictures == judged
    assert how.calibrated_on == 48 - judged
    assert how.speed.median > 0
    metadata = load_artifact(published.path).metadata
    assert (metadata["precision"], metadata["accuracy"]) == (precision, proof.accuracy.sentence)
    again = levit_deploy.verify(checkpoint, published.path, images=folder / "pictures", max_drop=45)
    assert again.cases == proof.cases
    with pytest.raises(UsageError, match=f"computes in {precision}, and its accuracy shows"):
        levit_deploy.verify(checkpoint, published.path)
    console = Console(record=True, width=500)
    print_published(published_data(published, checkpoint), console)
    text = console.export_text()
    how_made = "calibrated on 12 pictures" if precision == "int8" else "not calibrated"
    assert f"rounded: the whole network, {how_made}" in text
    assert "cost of each block" not in text


def test_its_error_is_that_of_its_logits(checkpoint, folder, tmp_path):
    how = quantize(checkpoint, folder, tmp_path / "it.toy").quantization
    float32 = levit_deploy.export(checkpoint, "toy", tmp_path / "float.toy").path
    pictures = levit_deploy.pipeline.judging_pictures(
        folder / "pictures", checkpoint.transform, CONFIG.num_classes
    )
    images = next(pictures.batches())
    expected, given = (load_artifact(p).run(images) for p in (float32, tmp_path / "it.toy"))
    apart = np.sqrt(np.mean((given - expected) ** 2)) / expected.std()
    np.testing.assert_allclose(how.errors[how.method], apart, rtol=1e-5)
    assert 1e-4 < apart < 0.3


def test_a_network_that_loses_too_much_is_not_published(checkpoint, folder, tmp_path, monkeypatch):
    def constant(model, provenance, options, images):
        model.head.weight.data *= 1e-3
        return TOY.rounded(model, provenance, options, images)

    monkeypatch.setitem(TARGETS, "toy", dataclasses.replace(TOY, rounded=constant))
    with pytest.raises(VerificationError, match=r"int8-dynamic costs .*, or another --precision"):
        quantize(checkpoint, folder, tmp_path / "it.toy")
    assert not (tmp_path / "it.toy").exists()


def test_a_network_that_is_not_the_rounded_one_is_not_published(
    checkpoint, folder, tmp_path, monkeypatch
):
    def other(model, provenance, options, images):
        model.head.weight.data[0, 0] *= 1.1
        return TOY.rounded(model, provenance, options, images)

    monkeypatch.setitem(TARGETS, "toy", dataclasses.replace(TOY, rounded=other))
    with pytest.raises(VerificationError, match="not the checkpoint's network, rounded"):
        quantize(checkpoint, folder, tmp_path / "it.toy")
    assert not (tmp_path / "it.toy").exists()


def test_a_choice_of_processors_is_for_onnx(checkpoint, folder, tmp_path):
    options = Int8Options(folder / "pictures", cpu="vnni")
    with pytest.raises(UsageError, match="--cpu vnni is for int8 in ONNX"):
        levit_deploy.quantize(checkpoint, tmp_path / "it.toy", options, format="toy")
