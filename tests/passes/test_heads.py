import numpy as np
import pytest
import torch
from networks import SMALL, float64_logits, images, trained
from torch import nn

from levit_deploy.errors import CheckpointError, UsageError
from levit_deploy.model import BN_Linear
from levit_deploy.passes.fuse_batchnorm import fuse_batchnorm
from levit_deploy.passes.heads import HEAD_PASSES, average_heads, keep_class_head, keep_distill_head


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def by_hand(features: np.ndarray, head: BN_Linear) -> np.ndarray:
    bn = head.bn
    normalised = (features - numbers(bn.running_mean)) / np.sqrt(numbers(bn.running_var) + bn.eps)
    x = normalised * numbers(bn.weight) + numbers(bn.bias)
    return x @ numbers(head.l.weight).T + numbers(head.l.bias)


def both_by_hand(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    model = trained().double()
    with torch.inference_mode():
        features = model.forward_features(x.double()).numpy()
    return by_hand(features, model.head), by_hand(features, model.head_dist)


@pytest.mark.parametrize("fused", [False, True])
def test_each_choice_gives_the_logits_computed_by_hand(fused):
    x = images()
    classes, distilled = both_by_hand(x)
    expected = {"class": classes, "distill": distilled}
    if fused:
        expected["mean"] = (classes + distilled) / 2
    model = fuse_batchnorm(trained().double()) if fused else trained().double()
    for name, logits in expected.items():
        got = float64_logits(HEAD_PASSES[name](model), x)
        np.testing.assert_allclose(got, logits, rtol=0, atol=1e-12 * np.abs(logits).max())
    assert np.abs(classes - distilled).max() > 0.1


def test_the_mean_is_the_float64_mean_rounded_once():
    model = fuse_batchnorm(trained())
    averaged = average_heads(model)
    for field in ("weight", "bias"):
        one, two = getattr(model.head, field), getattr(model.head_dist, field)
        expected = ((numbers(one) + numbers(two)) / 2).astype(np.float32)
        np.testing.assert_array_equal(getattr(averaged.head, field).detach().numpy(), expected)
        assert getattr(averaged.head, field).dtype == torch.float32


def test_the_mean_of_large_weights_does_not_overflow():
    model = fuse_batchnorm(trained())
    with torch.no_grad():
        model.head.bias.fill_(3e38)
        model.head_dist.bias.fill_(2e38)
    assert torch.equal(average_heads(model).head.bias, torch.full((7,), 2.5e38))


@pytest.mark.parametrize("name", HEAD_PASSES)
def test_one_head_is_left(name):
    model = HEAD_PASSES[name](fuse_batchnorm(trained()))
    assert model.head_dist is None
    assert isinstance(model.head, nn.Linear)
    assert not [key for key in model.state_dict() if key.startswith("head_dist")]


def test_the_mean_of_one_head_is_that_head():
    model = fuse_batchnorm(trained(SMALL.replace(distillation=False)))
    averaged = average_heads(model)
    assert torch.equal(averaged.head.weight, model.head.weight)
    assert torch.equal(averaged.head.bias, model.head.bias)


@pytest.mark.parametrize("keep", [keep_class_head, keep_distill_head])
def test_choosing_where_there_is_one_head_is_a_usage_error(keep):
    with pytest.raises(UsageError, match="does not have two heads"):
        keep(trained(SMALL.replace(distillation=False)))


@pytest.mark.parametrize("unfused", ["head", "head_dist"])
def test_heads_with_a_batchnorm_are_not_averaged(unfused):
    model = fuse_batchnorm(trained())
    setattr(model, unfused, BN_Linear(18, 7, eps=1e-5))
    with pytest.raises(CheckpointError, match="BN_Linear"):
        average_heads(model)
    with pytest.raises(CheckpointError, match="BN_Linear and BN_Linear"):
        average_heads(trained())
