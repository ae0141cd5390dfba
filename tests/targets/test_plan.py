"""What a target has not is refused before anything is written."""

import pytest

from levit_deploy import pipeline
from levit_deploy.errors import (
    UsageError,
)
from levit_deploy.targets.target import ExportOptions


def test_torchscript_has_no_opset_to_choose(tmp_path, checkpoint):
    with pytest.raises(UsageError, match="--opset"):
        pipeline.export(
            checkpoint, "torchscript", tmp_path / "out.pt", options=ExportOptions(opset=17)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


@pytest.mark.parametrize(
    "wrong", [{"format": "tflite"}, {"layout": "spacial"}, {"head": "both"}, {"precision": "fp8"}]
)
def test_choices_that_do_not_exist_are_usage_errors(tmp_path, checkpoint, wrong):
    arguments = {"format": "onnx", "output": tmp_path / "out", **wrong}
    with pytest.raises(UsageError, match=next(iter(wrong.values()))):
        pipeline.export(checkpoint, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]


def test_the_first_opset_is_not_the_default(tmp_path, checkpoint):
    with pytest.raises(UsageError, match="--opset 0"):
        pipeline.export(checkpoint, "onnx", tmp_path / "out", options=ExportOptions(opset=0))


@pytest.mark.parametrize(
    ("format", "precision", "instead"),
    [("torchscript", "fp16", "--format onnx"), ("onnx", "bf16", "--format pt2 or torchscript")],
)
def test_a_precision_that_the_format_has_not_is_a_usage_error(
    tmp_path, checkpoint, format, precision, instead
):
    with pytest.raises(UsageError, match=f"--precision {precision} is not for .*{instead}"):
        pipeline.export(checkpoint, format, tmp_path / "out", precision=precision)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pth"]
