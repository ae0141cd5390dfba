import numpy as np
import pytest
import torch
from networks import SMALL, images, trained
from torch import nn

from levit_deploy.passes.heads import drop_heads
from levit_deploy.passes.stage_maps import stage_maps
from levit_deploy.verification.steps import steps


def walked(cut, x):
    """The output of each block, from the one before it."""
    outputs = {}
    with torch.inference_mode():
        for step in cut:
            outputs[step.name] = step.module(x)
            x = outputs[step.name] if step.passed_on else x
    return outputs


@pytest.mark.parametrize("distillation", [False, True])
def test_the_blocks_are_those_of_a_walk_by_hand(distillation):
    model, x = trained(SMALL.replace(distillation=distillation)), images()
    outputs = walked(steps(model), x)
    stem = [f"patch_embed.{i}" for i in (0, 2, 4, 6)]
    assert list(outputs) == [*stem, *(f"blocks.{i}" for i in range(len(model.blocks))), "head"]
    with torch.inference_mode():
        assert torch.equal(outputs["head"], model(x))
        for i, layer in enumerate(model.patch_embed):
            x = layer(x)
            if i % 2 == 0:
                assert torch.equal(outputs[f"patch_embed.{i}"], x)
        x = model.to_tokens(x)
        for i, layer in enumerate(model.blocks):
            x = layer(x)
            assert torch.equal(outputs[f"blocks.{i}"], x)


def test_the_head_takes_pooled_features_as_well():
    model, x = trained(), images()
    *_, last, head = steps(model)
    with torch.inference_mode():
        tokens = walked(steps(model), x)[last.name]
        assert torch.equal(head.module(tokens), head.module(tokens.mean(1)))


def test_other_outputs_have_their_names():
    x = images()
    logits = walked(steps(trained(), "probabilities"), x)["head"]
    expected = torch.log_softmax(trained()(x), 1).detach()
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    features = steps(drop_heads(trained()), "features")
    assert features[-1].name == "features"
    assert walked(features, x)["features"].shape == (3, 18)
    maps = stage_maps(trained())
    outputs = walked(steps(maps, "feature-maps"), x)
    with torch.inference_mode():
        for i, own in enumerate(maps(x)):
            assert torch.equal(outputs[f"stage{i + 1}"], own)
    assert "head" not in outputs


def test_an_impossible_probability_is_the_least_that_counts():
    model = trained()
    model.head = nn.Linear(18, 7)
    nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1e4] + [0.0] * 6)
    model.head_dist = None
    logarithms = walked(steps(model, "probabilities"), images())["head"]
    assert torch.isfinite(logarithms).all()
    assert logarithms.min() == pytest.approx(np.log(1e-30), rel=1e-5)
