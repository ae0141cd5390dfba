"""What an artifact takes and gives: what is refused, and what is carried along."""

import dataclasses

import onnx
import pytest
from interfaces import BOTH, SQUARE
from networks import SMALL, trained

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.quantization.quantize import Int8Options
from levit_deploy.targets.fused import FUSED
from levit_deploy.targets.load import load_artifact
from levit_deploy.targets.plan import Plan
from levit_deploy.targets.target import ExportOptions


def test_what_the_file_says_of_itself_has_to_be_so(tmp_path, pixels_onnx):
    for key, value, expected in (
        ("input", "float32", "Expected float32 and float32"),
        ("input", "uint4", "the input 'uint4' is not one of float32, uint8"),
    ):
        model = onnx.load(pixels_onnx)
        next(p for p in model.metadata_props if p.key == key).value = value
        onnx.save(model, tmp_path / "out.onnx")
        with pytest.raises(ArtifactError, match=expected):
            load_artifact(tmp_path / "out.onnx")


def test_choices_that_do_not_exist_are_usage_errors(tmp_path, square):
    for options in (ExportOptions(input="int8"), ExportOptions(output="top5")):
        with pytest.raises(UsageError, match="is not one of"):
            pipeline.export(square, "onnx", tmp_path / "out.onnx", options=options)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type of multi_label_class"),
        ({"problem_type": "regression"}, "problem_type of regression"),
        ({"config": SQUARE.replace(num_classes=1)}, "one class, of which a softmax is always 1"),
    ],
)
def test_a_softmax_that_would_be_no_probability_is_refused(tmp_path, square, changes, expected):
    other = dataclasses.replace(square, **changes)
    with pytest.raises(UsageError, match=f"--output-type probabilities .*{expected}"):
        pipeline.export(other, "onnx", tmp_path / "out.onnx", options=BOTH)
    int8 = Int8Options(tmp_path)
    with pytest.raises(UsageError, match=expected):
        pipeline.quantize(other, tmp_path / "out.onnx", int8, options=BOTH)
    assert list(tmp_path.iterdir()) == []


def test_what_the_logits_mean_is_carried_along_by_every_kind_of_file(tmp_path, square):
    other = dataclasses.replace(square, problem_type="regression")
    pipeline.fuse(other, tmp_path / "fused.safetensors")
    fused = read_checkpoint(tmp_path / "fused.safetensors")
    assert fused.problem_type == "regression"
    plan = Plan(checkpoint=fused, target=FUSED, head="mean", layout="tokens")
    assert plan.provenance.to_metadata()["problem_type"] == "regression"


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        (SMALL, {"unsupported": "config.json says crop_mode: other"}, "crop_mode: other"),
        (SMALL.replace(in_channels=2), {}, "3 means and 3 standard deviations"),
    ],
)
def test_bytes_that_nobody_knows_how_to_normalise_are_refused(
    tmp_path, square, config, changes, expected
):
    preprocessing = dataclasses.replace(square.preprocessing, **changes)
    other = dataclasses.replace(
        square, config=config, model=trained(config), preprocessing=preprocessing
    )
    with pytest.raises(UsageError, match=f"cannot be normalised: .*{expected}.*--preprocessing"):
        pipeline.export(other, "onnx", tmp_path / "out.onnx", options=BOTH)
    assert list(tmp_path.iterdir()) == []
