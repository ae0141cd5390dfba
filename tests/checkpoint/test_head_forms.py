"""Heads of other forms than the family's, computed by torch itself for comparison."""

import networks
import numpy as np
import pytest
import torch
from foreign import state_of
from torch import nn

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import CheckpointError
from levit_deploy.targets.load import load_artifact

SMALL = networks.SMALL.replace(image_size=(64, 64))
WIDTH = SMALL.stages[-1].dim
STATE = networks.trained(SMALL).state_dict()
HEADLESS = {key: tensor for key, tensor in STATE.items() if not key.startswith("head")}


def random_head(*layers):
    head = nn.Sequential(*layers).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in (*head.parameters(), *head.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    return head


def expected(head, x):
    with torch.inference_mode():
        features = networks.trained(SMALL).double().forward_features(x.double())
        return head.double()(features).numpy()


def computed(checkpoint, x):
    return networks.float64_logits(checkpoint.model, x)


def saved(tmp_path, state):
    path = tmp_path / "some.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("classes", [5, WIDTH])
@pytest.mark.parametrize(
    ("prefix", "name"), [("", "head"), ("", "fc"), ("backbone.", "fc"), ("net.", "net.my.head")]
)
def test_a_plain_linear_layer_is_a_head(tmp_path, prefix, name, classes):
    linear = random_head(nn.Linear(WIDTH, classes))
    state = {prefix + key: tensor for key, tensor in HEADLESS.items()}
    state |= {f"{name}.{key}": tensor for key, tensor in linear[0].state_dict().items()}
    head_name = None if name == "head" else name
    checkpoint = read_checkpoint(saved(tmp_path, state), head_name=head_name)
    x = networks.images(SMALL)
    assert np.array_equal(computed(checkpoint, x), expected(linear, x))
    assert checkpoint.config.batchnorm_in_head is False
    assert checkpoint.block_names["head"] == name.removeprefix(prefix)
    assert any(f"{name} takes the mean" in text for text in checkpoint.assumed) == bool(head_name)


@pytest.mark.parametrize("classes", [5, WIDTH])
@pytest.mark.parametrize("name", ["head", "fc"])
def test_a_batchnorm_before_the_linear_layer_may_have_any_name(tmp_path, name, classes):
    head = random_head(nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, classes))
    state = HEADLESS | {f"{name}.{key}": tensor for key, tensor in head.state_dict().items()}
    checkpoint = read_checkpoint(saved(tmp_path, state), head_name=None if name == "head" else name)
    x = networks.images(SMALL)
    np.testing.assert_allclose(computed(checkpoint, x), expected(head, x), rtol=1e-12)
    assert checkpoint.config.batchnorm_in_head


def test_dropout_may_stand_between_and_is_assumed(tmp_path):
    head = random_head(nn.Dropout(), nn.Linear(WIDTH, 5))
    state = HEADLESS | {f"head.{key}": tensor for key, tensor in head.state_dict().items()}
    checkpoint = read_checkpoint(saved(tmp_path, state))
    x = networks.images(SMALL)
    assert np.array_equal(computed(checkpoint, x), expected(head, x))
    assert "nothing but dropout is in head beside head.1" in checkpoint.proven_if


def test_a_linear_layer_without_bias_has_none(tmp_path):
    head = random_head(nn.Linear(WIDTH, 5, bias=False))
    state = HEADLESS | {"fc.weight": head[0].weight.data}
    checkpoint = read_checkpoint(saved(tmp_path, state), head_name="fc")
    x = networks.images(SMALL)
    assert np.array_equal(computed(checkpoint, x), expected(head, x))


@pytest.mark.parametrize(
    "head",
    [
        random_head(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 5)),
        random_head(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)),
        random_head(nn.Linear(WIDTH, 5), nn.BatchNorm1d(5)),
        random_head(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)),
        random_head(nn.BatchNorm1d(WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 5)),
        random_head(nn.Conv1d(WIDTH, 5, 1)),
        random_head(nn.Linear(WIDTH + 1, 5)),
        random_head(nn.BatchNorm1d(WIDTH)),
        random_head(nn.BatchNorm1d(WIDTH, affine=False), nn.Linear(WIDTH, 5)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["head", "fc"])
def test_any_other_head_is_refused_with_its_tensors(tmp_path, head, name):
    state = HEADLESS | {f"{name}.{key}": tensor for key, tensor in head.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"head|fc\.0"):
        read_checkpoint(saved(tmp_path, state), head_name=None if name == "head" else name)


@pytest.mark.parametrize(
    ("family", "heads"),
    [
        ("official", ("head", "head_dist")),
        ("timm", ("head", "head_dist")),
        ("transformers", ("classifier", "classifier_distill")),
        ("mmpretrain", ("head.head", "head.head_dist")),
    ],
)
def test_both_heads_of_any_family_may_be_plain(tmp_path, family, heads):
    state = state_of(family, SMALL)
    linear = [random_head(nn.Linear(WIDTH, 4)) for _ in heads]
    linear[1][0].bias.data += 1
    state = {
        key: t for key, t in state.items() if not key.startswith(tuple(f"{h}." for h in heads))
    }
    for name, layer in zip(heads, linear, strict=True):
        state |= {f"{name}.{key}": tensor for key, tensor in layer[0].state_dict().items()}
    checkpoint = read_checkpoint(saved(tmp_path, state))
    x = networks.images(SMALL)
    both = (expected(linear[0], x) + expected(linear[1], x)) / 2
    np.testing.assert_allclose(computed(checkpoint, x), both, rtol=1e-12)


def test_a_plain_head_is_fused_and_exported_with_proof(tmp_path):
    linear = random_head(nn.Linear(WIDTH, 5))
    state = HEADLESS | {f"fc.{key}": tensor for key, tensor in linear[0].state_dict().items()}
    checkpoint = read_checkpoint(saved(tmp_path, state), head_name="fc")
    fused = pipeline.fuse(checkpoint, tmp_path / "fused.safetensors").path
    output = pipeline.export(read_checkpoint(fused), "onnx", tmp_path / "some.onnx").path
    x = networks.images(SMALL)
    logits = expected(linear, x)
    answer = load_artifact(output).run(x.numpy())
    np.testing.assert_allclose(answer, logits, rtol=0, atol=1e-5 * np.abs(logits).max())
