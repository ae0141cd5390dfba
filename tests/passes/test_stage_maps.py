import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from networks import GOLDENS, SMALL, configs, golden, images, trained

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.layout import to_spatial
from levit_deploy.model import AttentionSubsample
from levit_deploy.passes import to_plain, to_plain_float64
from levit_deploy.passes.heads import drop_heads
from levit_deploy.passes.stage_maps import stage_maps

TIMM = "timm-rectangular-64x96-single-head"


def computed(model, x):
    with torch.inference_mode():
        return model(x)


def by_hand(model, x):
    """The tokens before each subsampling and at the end, put back on their grid."""
    with torch.inference_mode():
        x, maps = model.to_tokens(model.patch_embed(x)), []
        for block in model.blocks:
            if isinstance(block, AttentionSubsample):
                maps.append(x)
            x = block(x)
    return [*maps, x]


def timms():
    """A checkpoint, its input, and what timm 1.0.31 computes of it in float64."""
    path, x, _ = golden(TIMM)
    checkpoint = read_checkpoint(path, image_size=(64, 96))
    return checkpoint, torch.from_numpy(x).double(), np.load(GOLDENS / TIMM / "features.npz")


@pytest.mark.parametrize("fused", [False, True], ids=["training form", "plain"])
def test_the_maps_are_those_of_timms_features_only(fused):
    checkpoint, x, expected = timms()
    model = checkpoint.model
    if fused:  # which has moved the pooling into the last block, if it had a head
        model = to_plain_float64(model)
    maps = computed(stage_maps(copy.deepcopy(model).double()), x)
    assert [tuple(m.shape) for m in maps] == [(3, 16, 4, 6), (3, 24, 2, 3), (3, 32, 1, 2)]
    for i, m in enumerate(maps):
        np.testing.assert_allclose(m, expected[f"stage{i + 1}"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [TIMM, "transformers"])
def test_the_features_are_timms_and_transformers(name):
    """``num_classes=0`` and ``pooler_output``."""
    path, x, _ = golden(name)
    options = {"image_size": (64, 96)} if name == TIMM else {}
    model = drop_heads(read_checkpoint(path, **options).model).double()
    expected = np.load(GOLDENS / name / "features.npz")["pooled"]
    pooled = computed(model, torch.from_numpy(x).double())
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=5)
@given(configs())
def test_the_maps_of_any_network_are_the_tokens_before_each_subsampling(config):
    model = trained(config).double()
    x = images(config, n=2).double()
    expected = by_hand(model, x)
    plain = to_plain(model, output="feature-maps").double()
    assert not any(name.startswith("head") for name in plain.state_dict())
    for made in (stage_maps(model), plain, to_spatial(plain).double()):
        maps = computed(made, x)
        for m, tokens, stage, grid in zip(
            maps, expected, config.stages, config.resolutions, strict=True
        ):
            assert m.shape == (2, stage.dim, *grid)
            again = m.flatten(2).transpose(1, 2)
            assert m.is_contiguous()
            torch.testing.assert_close(again, tokens, rtol=1e-3, atol=1e-4)


def test_the_model_is_left_as_it_was():
    model = trained()
    before = {name: type(module) for name, module in model.named_modules()}
    stage_maps(model)
    drop_heads(model)
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_a_damaged_head_does_no_harm_to_features():
    model = trained()
    model.head.bn.running_var.fill_(-1)
    plain = to_plain(model, output="features")
    expected = computed(drop_heads(trained()), images(SMALL))
    torch.testing.assert_close(computed(plain, images(SMALL)), expected, rtol=1e-4, atol=1e-4)
