"""Artifacts that take bytes or give probabilities compute what they should."""

import dataclasses

import numpy as np
import pytest
from interfaces import BOTH, MEAN, PIXELS, STD, expected_logits, softmax

from levit_deploy import pipeline
from levit_deploy.errors import VerificationError
from levit_deploy.interface import Interface
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.target import ExportOptions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "precision", "layout", "opset", "within"),
    [
        ("onnx", "fp32", "spatial", 17, 1e-5),
        ("onnx", "fp32", "tokens", 23, 1e-5),
        ("onnx", "fp16", "tokens", 20, 2e-2),
        ("onnx", "fp32", "spatial", 11, 1e-5),
        ("onnx", "fp16", "tokens", 13, 2e-2),
        pytest.param("torchscript", "fp32", "tokens", None, 1e-5, marks=pytest.mark.slow),
        pytest.param("torchscript", "bf16", "spatial", None, 2e-1, marks=pytest.mark.slow),
    ],
)
def test_bytes_in_and_probabilities_out(tmp_path, square, format, precision, layout, opset, within):
    output = tmp_path / "artifact"
    for gives, expected in (
        ("logits", expected_logits()),
        ("probabilities", softmax(expected_logits())),
    ):
        options = ExportOptions(opset, None, "uint8", gives)
        choices = {"layout": layout, "precision": precision, "options": options, "force": True}
        published = pipeline.export(square, format, output, **choices)
        assert published.verification.interface == Interface("uint8", gives)
        artifact = load_artifact(output)
        assert (artifact.metadata["input"], artifact.metadata["output"]) == ("uint8", gives)
        assert artifact.image_shape == (64, 64, 3)
        np.testing.assert_allclose(artifact.run(PIXELS), expected, rtol=0, atol=within)


def test_one_end_alone_and_a_fixed_batch(tmp_path, square):
    options = ExportOptions(batch_size=3, output="probabilities")
    pipeline.export(square, "onnx", tmp_path / "out.onnx", options=options)
    artifact = load_artifact(tmp_path / "out.onnx")
    assert artifact.interface == Interface("float32", "probabilities")
    images = ((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    expected = softmax(expected_logits())
    np.testing.assert_allclose(artifact.run(images.copy()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_softmax_over_the_batch_is_not_published(tmp_path, square, monkeypatch, batch_size):
    from levit_deploy.targets import onnx_writer as exporter

    def over_the_batch(g, logits):
        return g.op("Softmax", [logits], "probabilities", [*logits.shape], axis=0)

    monkeypatch.setattr(exporter, "probabilities", over_the_batch)
    options = dataclasses.replace(BOTH, batch_size=batch_size)
    with pytest.raises(VerificationError, match="parts from the original first at head"):
        pipeline.export(square, "onnx", tmp_path / "out.onnx", options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["offset", "factor"])
def test_torchscript_with_a_mistake_is_not_published(tmp_path, square, monkeypatch, wrong):
    from levit_deploy.targets import torch_network

    right = torch_network.Normalise

    def normalise(mean, std):
        return right(mean[::-1].copy(), std) if wrong == "offset" else right(mean, std * 1.001)

    monkeypatch.setattr(torch_network, "Normalise", normalise)
    with pytest.raises(VerificationError, match="first at pixel_values"):
        pipeline.export(square, "torchscript", tmp_path / "out.pt", options=BOTH)
    assert list(tmp_path.iterdir()) == []
