"""What proves nothing is refused, and what a proof says is plain data."""

import io
from dataclasses import replace

import numpy as np
import onnx
import pytest
from networks import trained
from rich.console import Console

from levit_deploy import pipeline
from levit_deploy.errors import BackendError, CheckpointError
from levit_deploy.report import print_published, published_data


def test_an_original_whose_errors_hide_the_images_proves_nothing(tmp_path, checkpoint):
    model = trained()
    for head in (model.head, model.head_dist):
        head.l.weight.data *= 1e-6  # the biases remain, which are the same for every image
    alike = replace(checkpoint, model=model)
    assert pipeline.export(alike, "onnx", tmp_path / "fp32.onnx").verification.passed
    with pytest.raises(CheckpointError, match=r"In float16 .* the proof proves nothing.*--images"):
        pipeline.export(alike, "onnx", tmp_path / "fp16.onnx", precision="fp16")
    assert not (tmp_path / "fp16.onnx").exists()


def test_a_network_whose_logits_are_all_zero_is_proven_and_no_other_is(
    tmp_path, checkpoint, exported
):
    model = trained()
    for head in (model.head, model.head_dist):
        head.l.weight.data.zero_()
        head.l.bias.data.zero_()
    silent = replace(checkpoint, model=model)
    published = pipeline.export(silent, "onnx", tmp_path / "silent.onnx")
    out = io.StringIO()
    print_published(published_data(published), Console(file=out))
    assert "FAILED" not in out.getvalue()
    assert not pipeline.verify(silent, exported).passed


def test_a_network_beyond_float16_is_refused_before_anything_is_published(tmp_path, checkpoint):
    model = trained()
    model.blocks[0].m.qkv.bn.weight.data *= 3000
    with pytest.raises(CheckpointError, match=r"On normal inputs .* infinity in float16.*fp32"):
        pipeline.export(
            replace(checkpoint, model=model), "onnx", tmp_path / "out.onnx", precision="fp16"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


def test_a_batch_that_is_baked_in_is_no_proof(tmp_path, checkpoint, exported):
    model = onnx.load(exported)
    reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
    shape = next(each for each in model.graph.initializer if each.name == reshape.input[1])
    sizes = np.frombuffer(shape.raw_data, np.int64).copy()
    assert sizes[0] == -1
    sizes[0] = 1
    shape.raw_data = sizes.tobytes()
    onnx.save(model, tmp_path / "baked.onnx")
    with pytest.raises(BackendError, match=r"on a batch of shape \(2, "):
        pipeline.verify(checkpoint, tmp_path / "baked.onnx")
