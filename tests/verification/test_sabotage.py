"""What the proof has to refuse: a network, or a file, that is wrong in one place."""

import importlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
from every_format import EVERY_FORMAT
from example_scripts import EXAMPLES
from networks import trained
from onnx import numpy_helper
from torch import nn

from levit_deploy import pipeline
from levit_deploy.errors import (
    VerificationError,
)
from levit_deploy.model import AttentionBias
from levit_deploy.passes import to_plain
from levit_deploy.targets import plan
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.load import load_artifact
from levit_deploy.verification import compare
from levit_deploy.verification import prove as prove_module

REDUCED = [
    pytest.param("onnx", "fp16"),
    pytest.param("torchscript", "bf16", marks=pytest.mark.slow),
    pytest.param("pt2", "bf16", marks=pytest.mark.study),
]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "precision"), REDUCED)
def test_a_forgotten_head_is_refused_in_any_precision(
    tmp_path, checkpoint, monkeypatch, format, precision
):
    monkeypatch.setattr(compare, "TWINS", (0,))  # the first look will do
    pipeline.export(checkpoint, format, tmp_path / "artifact", precision=precision, head="class")
    claimed = load_artifact(tmp_path / "artifact")
    found = prove_module.prove(checkpoint, replace(claimed, metadata={"precision": precision}))
    assert not found.passed
    assert "head" in found.parting.block


def wrong_eps(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 1e-3


def shifted_bias_table(model):
    for module in model.modules():
        if isinstance(module, AttentionBias):
            module.biases.data = module.biases.data.roll(1, dims=1)


def bias_table_of_another_network(model):
    biases = [m for m in trained(seed=5).modules() if isinstance(m, AttentionBias)]
    for module, stale in zip(
        [m for m in model.modules() if isinstance(m, AttentionBias)], biases, strict=True
    ):
        module.biases.data = stale.biases.data


def dropped_head(model):
    model.head_dist = None


def summed_heads(model):
    for head in (model.head, model.head_dist):
        head.l.weight.data *= 2
        head.l.bias.data *= 2


def forgotten_scale(model):
    for module in model.modules():
        if hasattr(module, "scale"):
            module.scale.factor = 1.0


def another_activation(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Hardswish):
                setattr(module, name, nn.SiLU())


def one_weight_off_by_one_percent(model):
    weight = model.blocks[0].m.qkv.c.weight.data
    index = weight.abs().flatten().argmax()
    weight.view(-1)[index] *= 1.01


def one_bias_off(model):
    model.blocks[3].m[0].bn.bias.data[0] += 1e-3


def a_batchnorm_left_out(model):
    bn = model.blocks[1].m[0].bn
    bn.running_mean.zero_()


def a_transposed_weight(model):
    square = model.blocks[0].m.proj[1]
    n = min(square.c.weight.shape)
    square.c.weight.data[:n, :n] = square.c.weight.data[:n, :n].T.clone()


SABOTAGE = [
    wrong_eps,
    shifted_bias_table,
    bias_table_of_another_network,
    dropped_head,
    summed_heads,
    forgotten_scale,
    another_activation,
    one_weight_off_by_one_percent,
    one_bias_off,
    a_batchnorm_left_out,
    a_transposed_weight,
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "sabotage"),
    [
        *(("onnx", s) for s in SABOTAGE),
        *(("torchscript", s) for s in SABOTAGE[2::4]),
        *(pytest.param("pt2", s, marks=pytest.mark.study) for s in SABOTAGE[::8]),
        *(pytest.param("litert", s, marks=pytest.mark.litert) for s in SABOTAGE[2::4]),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_sabotage_before_the_export_is_refused(tmp_path, checkpoint, sabotage, format):
    sabotaged = trained()
    sabotage(sabotaged)
    output = tmp_path / "artifact"
    wrong = plan.Plan(
        checkpoint=replace(checkpoint, model=sabotaged),
        target=TARGETS[format],
        head="mean",
        layout="tokens",
    )
    output.write_bytes(wrong.serialize())
    verification = pipeline.verify(checkpoint, output)
    assert not verification.passed
    with pytest.raises(VerificationError, match="computes another function than the checkpoint"):
        verification.raise_if_failed()


def transposed_bias(model):
    tensor = next(t for t in model.graph.initializer if t.name.endswith("m.attention_bias"))
    table = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(table.swapaxes(1, 2).copy()[:, ::-1], tensor.name))


def one_bit_of_one_weight(model):
    tensor = next(t for t in model.graph.initializer if t.name == "head.weight")
    weights = numpy_helper.to_array(tensor).copy()
    index = np.unravel_index(np.abs(weights).argmax(), weights.shape)
    weights.view(np.uint32)[index] ^= 1 << 12  # a 2000th of the weight
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))


def softmax_over_the_wrong_axis(model):
    node = next(n for n in model.graph.node if n.op_type == "Softmax")
    node.attribute[0].i = -2


def hardswish_as_hardsigmoid(model):
    next(n for n in model.graph.node if n.op_type == "HardSwish").op_type = "HardSigmoid"


@pytest.mark.parametrize(
    "sabotage",
    [
        transposed_bias,
        one_bit_of_one_weight,
        softmax_over_the_wrong_axis,
        hardswish_as_hardsigmoid,
    ],
    ids=lambda function: function.__name__,
)
def test_sabotage_of_the_written_file_is_refused(checkpoint, exported, sabotage):
    model = onnx.load(exported)
    sabotage(model)
    onnx.save(model, exported)
    with pytest.raises(VerificationError, match="computes another function than the checkpoint"):
        pipeline.verify(checkpoint, exported).raise_if_failed()


@pytest.mark.parametrize(
    ("seed", "number", "kind"),
    [
        (77, 3, "softmax over queries"),
        (77, 3, "one token not pooled"),
        (0, 24, "scale twice"),
    ],
)
def test_sabotage_that_nearly_all_images_hide_is_refused(monkeypatch, seed, number, kind):
    """Cases of the study whose attention is decided, and whose tokens are then alike."""
    monkeypatch.syspath_prepend(EXAMPLES)
    study = importlib.import_module("mutation_study")
    monkeypatch.setattr(study, "OTHER_IMAGES", 2)
    case = study.sabotage(seed, number, kind)
    assert "On telling: " in case.refusal or "; on telling: " in case.refusal
    assert case.off == 0  # the block is named


def test_a_correct_artifact_that_one_image_throws_far_off_is_proven(monkeypatch):
    """The one of 500 that the study once refused: a last bit decides which key one query takes."""
    monkeypatch.syspath_prepend(EXAMPLES)
    study = importlib.import_module("mutation_study")
    monkeypatch.setattr(study, "OTHER_IMAGES", 2)
    assert not study.clean(1612, 96, 0, study.network(1612, 96)).refusal


@pytest.mark.parametrize("format", EVERY_FORMAT)
def test_a_failed_proof_publishes_nothing(tmp_path, checkpoint, monkeypatch, format):
    # a bug as others have it: the distillation head is forgotten
    monkeypatch.setattr(plan, "to_plain", lambda model, *_: to_plain(model, "class"))
    output = tmp_path / "out.onnx"
    output.write_bytes(b"old")
    with pytest.raises(VerificationError):
        pipeline.export(checkpoint, format, output, force=True)
    assert output.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt.pth", "out.onnx"]
