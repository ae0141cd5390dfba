"""An artifact is held to the checkpoint, at the precision it claims."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from every_format import EVERY_FORMAT
from networks import SMALL, trained
from onnx import numpy_helper

from levit_deploy import pipeline
from levit_deploy.errors import (
    ArtifactError,
    UsageError,
    VerificationError,
)

# a process that runs them imports torch first, for seconds
FORMATS = [
    pytest.param(*form.values, marks=pytest.mark.slow) if form.values[0] == "torchscript" else form
    for form in EVERY_FORMAT
]


def test_a_drop_is_for_int8(checkpoint, exported):
    with pytest.raises(
        UsageError, match=r"--max-drop is for int8, int8-dynamic, w8a16, and .*ckpt\.onnx"
    ):
        pipeline.verify(checkpoint, exported, max_drop=3)
    with pytest.raises(UsageError, match="--confident is for int8, int8-dynamic, w8a16, and"):
        pipeline.verify(checkpoint, exported, confident=True)


def edited(path, edit):
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)


def claim(precision):
    def edit(model):
        next(p for p in model.metadata_props if p.key == "precision").value = precision

    return edit


def test_an_artifact_is_held_to_the_precision_it_claims(tmp_path, checkpoint):
    output = tmp_path / "out.onnx"
    pipeline.export(checkpoint, "onnx", output, precision="fp16")
    edited(output, claim("fp32"))
    found = pipeline.verify(checkpoint, output)
    assert found.cases[0].failures
    assert found.precision == "fp32"
    edited(output, claim("fp12"))
    with pytest.raises(ArtifactError, match="'fp12' is not one of"):
        pipeline.verify(checkpoint, output)


def test_an_overflow_inside_a_float16_graph_is_found(tmp_path, checkpoint):
    def overflow(model):
        add = next(node for node in model.graph.node if node.name == "blocks.2.add")
        last, at = add.output[0], list(model.graph.node).index(add)
        add.output[0] = "blocks.2.quiet"
        for name, source, factor in (
            ("blocks.2.loud", "blocks.2.quiet", 2.0**15),
            (last, "blocks.2.loud", 2.0**-15),
        ):
            at += 1
            weight = np.array(factor, np.float16)
            model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}.factor"))
            node = onnx.helper.make_node("Mul", [source, f"{name}.factor"], [name], f"{name}.mul")
            model.graph.node.insert(at, node)

    output = tmp_path / "out.onnx"
    pipeline.export(checkpoint, "onnx", output, precision="fp16", layout="tokens")
    edited(output, overflow)
    found = pipeline.verify(checkpoint, output)
    assert not found.passed
    assert all("infinit" in " ".join(case.failures) for case in found.cases[:1])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("change", [{"num_classes": 8}, {"image_size": (96, 64)}])
def test_an_artifact_of_another_network_fails_in_words(tmp_path, checkpoint, format, change):
    config = SMALL.replace(**change)
    other = replace(checkpoint, config=config, model=trained(config))
    pipeline.export(other, format, tmp_path / "artifact")
    with pytest.raises(VerificationError, match="another network"):
        pipeline.verify(checkpoint, tmp_path / "artifact")
