"""A target is one file and one line: a toy one goes through everything."""

import dataclasses
import importlib.util
import io
import zipfile
from typing import get_args

import numpy as np
import pytest
import torch
from networks import TINY, trained
from pictures_on_disk import save
from toy_target import TOY

import levit_deploy
from levit_deploy.bench import contenders
from levit_deploy.bench.benchmark import benchmark
from levit_deploy.errors import UsageError, VerificationError
from levit_deploy.publish.triton import TritonModel
from levit_deploy.targets.formats import TARGETS, Format, target_of
from levit_deploy.targets.fused import FUSED
from levit_deploy.targets.target import START

PREPROCESSING = "crop 1, bilinear, mean 0.5, std 0.5"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(TARGETS, "toy", TOY)


@pytest.fixture
def published(folder):
    checkpoint = levit_deploy.load(folder / "ckpt.pth", preprocessing=PREPROCESSING)
    return levit_deploy.export(checkpoint, "toy", folder / "ckpt.toy")


def test_every_format_has_its_target():
    assert {*get_args(Format), "toy"} == set(TARGETS)


@pytest.mark.isolated
def test_a_new_target_is_exported_and_proven_in_a_process_of_its_own(folder, published):
    assert published.verification.passed
    assert published.verification.format == "toy"
    assert published.layout == "tokens"
    assert published.facts == {"bytes": published.size_bytes}
    assert levit_deploy.verify(folder / "ckpt.pth", published.path).passed


def test_a_new_target_that_is_wrong_is_not_published(folder, monkeypatch):
    def wrong(model, provenance, options):
        model.head.bias.data[0] += 0.01
        return TOY.serialize(model, provenance, options)

    monkeypatch.setitem(TARGETS, "toy", TOY.__class__(**{**vars(TOY), "serialize": wrong}))
    with pytest.raises(VerificationError, match="first at head"):
        levit_deploy.export(folder / "ckpt.pth", "toy", folder / "ckpt.toy")
    assert not (folder / "ckpt.toy").exists()


def test_a_new_target_answers_pictures(folder, published):
    save(folder / "a.png")
    checkpoint = levit_deploy.load(folder / "ckpt.pth", preprocessing=PREPROCESSING)
    levit_deploy.export(checkpoint, "onnx", folder / "ckpt.onnx")
    toy, onnx = (
        next(levit_deploy.predict(path, folder / "a.png", top_k=7)).answers
        for path in (published.path, folder / "ckpt.onnx")
    )
    assert [answer.index for answer in toy] == [answer.index for answer in onnx]
    np.testing.assert_allclose(
        [answer.probability for answer in toy], [a.probability for a in onnx], atol=1e-5
    )


def test_a_new_target_is_timed_in_each_of_its_forms(tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "TARGETS", {"onnx": TARGETS["onnx"], "toy": TOY})
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    monkeypatch.setattr(contenders, "_plain_int8", lambda *_: {})
    monkeypatch.setattr(contenders, "ONNX", dataclasses.replace(TARGETS["onnx"], forms=()))
    torch.save(
        trained(TINY).state_dict(), tmp_path / "ckpt.pth"
    )  # torch.onnx takes a second a block
    checkpoint = levit_deploy.load(tmp_path / "ckpt.pth", image_size=TINY.image_size)
    published = levit_deploy.export(checkpoint, "toy", tmp_path / "ckpt.toy")
    result = benchmark(
        checkpoint.model,
        checkpoint.config,
        network="it",
        artifacts=[published.path],
        batch_sizes=(1,),
        rounds=2,
    )
    rows = [row.name for row in result.rows if row.runtime == "toy runtime"]
    assert rows == ["tokens", str(published.path)]


def test_a_target_without_a_backend_of_tritons_is_refused(folder):
    with pytest.raises(UsageError, match=r"no backend for --format toy.* onnx or torchscript"):
        levit_deploy.export(folder / "ckpt.pth", "toy", TritonModel(folder, "model"))
    assert [path.name for path in folder.iterdir()] == ["ckpt.pth"]


def test_a_precision_that_a_target_lacks_names_the_targets_that_have_it(folder):
    with pytest.raises(UsageError, match=r"not for --format toy.* --format pt2 or torchscript"):
        levit_deploy.export(folder / "ckpt.pth", "toy", folder / "out", precision="bf16")


def member(name: str) -> bytes:
    """The start of an archive, by the module of Python's that writes them."""
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(name, b"")
    return file.getvalue()[:START]


def test_a_file_is_known_by_its_first_bytes():
    assert target_of(b"a toy for tests\n") is TOY
    # a header of 0x..08 bytes begins like an ONNX file
    assert target_of(b"\x08\x11\0\0\0\0\0\0{") is FUSED
    assert target_of(b"PK\x03\x04").name == "torchscript"
    assert target_of(member("any/data.pkl")).name == "torchscript"
    assert target_of(member("any/extra/provenance.json")).name == "torchscript"
    assert target_of(member("any/data/weights/weight_0")).name == "pt2"
    assert target_of(member("any/data/aotinductor/model/c.wrapper.cpp")).name == "pt2"
    assert target_of(b"\x08\x08\x12\x0clevit-deploy").name == "onnx"
    assert target_of(b"anything else").name == "onnx"  # whose loader says what is wrong
