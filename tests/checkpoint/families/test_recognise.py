"""Every family: recognised and converted by names, the architecture inferred back."""

import random
from dataclasses import replace

import foreign
import networks
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL

from levit_deploy.checkpoint.families.recognise import READERS, recognise
from levit_deploy.checkpoint.infer import infer_config
from levit_deploy.checkpoint.strict import load_strictly
from levit_deploy.errors import CheckpointError

PATH = "some.pth"


def reader_of(family):
    name = family.removesuffix(" conv").removesuffix(" fused")
    return next(reader for reader in READERS if name == reader.FAMILY)


def read(state, reader, config):
    converted = reader.convert(state)
    # a column of tokens has the same offsets as a row, and timm stores no indices at all
    known = replace(networks.known(config), image_size=config.image_size)
    inferred = infer_config(converted, known).config
    return inferred, load_strictly(inferred, converted)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(foreign.saved(), st.randoms(use_true_random=False))
def test_any_network_of_any_family_is_read_back(saved, order):
    family, config, model, state = saved
    keys = list(state)
    order.shuffle(keys)  # by name, never by position
    state = {key: state[key] for key in keys}

    reader = recognise(state, PATH)
    assert reader is reader_of(family)
    inferred, loaded = read(state, reader, config)
    assert inferred == config
    x = networks.images(config, 2)
    assert (networks.float64_logits(loaded, x) == networks.float64_logits(model, x)).all()


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_what_a_family_fixes_is_known(family):
    _, fixed = foreign.FAMILIES[family]
    known = reader_of(family).known({})
    assert known.activation or known.usual_activation[0] == fixed.get("activation", "hardswish")
    for field in ("stem_activation", "attention_activation", "bias_over_scale"):
        assert getattr(known, field) == fixed[field]
    assert known.averages_heads == (family != "vit-pytorch")


@pytest.mark.parametrize("family", foreign.FAMILIES)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.FAMILY)
def test_each_reader_knows_its_own_names_and_no_others(reader, family):
    keys = foreign.state_of(family, SMALL).keys()
    assert reader.matches(keys) == (reader is reader_of(family))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.FAMILY)
def test_no_names_match_nothing(reader):
    assert not reader.matches([])


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_a_name_the_family_does_not_have_is_refused(family):
    state = foreign.state_of(family, SMALL)
    state["surplus.weight"] = torch.ones(1)
    with pytest.raises(CheckpointError, match=r"surplus surplus\.weight"):
        read(state, reader_of(family), SMALL)


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_every_tensor_of_a_family_is_needed(family):
    state = foreign.state_of(family, SMALL)
    optional = ("num_batches_tracked", "attention_bias_idxs", "pos_indices")
    needed = [key for key in state if not key.endswith(optional)]
    for key in random.Random(0).sample(needed, 25):
        less = {k: v for k, v in state.items() if k != key}
        with pytest.raises(CheckpointError):
            read(less, recognise(less, PATH), SMALL)


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_a_missing_distillation_head_is_one_head(family):
    state = {k: v for k, v in foreign.state_of(family, SMALL).items() if "dist" not in k}
    config = SMALL.replace(**foreign.FAMILIES[family][1])
    inferred, model = read(state, recognise(state, PATH), config)
    assert inferred == config.replace(distillation=False)
    assert model.head_dist is None


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_half_a_distillation_head_is_refused(family):
    state = foreign.state_of(family, SMALL)
    weight = next(key for key in state if "dist" in key and key.endswith("weight"))
    others = [k for k in state if "dist" in k and k != weight and not k.endswith("tracked")]
    for key in others:
        less = {k: v for k, v in state.items() if k != key}
        with pytest.raises(CheckpointError):
            read(less, recognise(less, PATH), SMALL)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("official", "timm"),
        ("timm", "transformers"),
        ("transformers", "vit-pytorch"),
        ("vit-pytorch", "LayerNorm variant"),
    ],
)
def test_names_of_two_families_are_refused(one, two):
    both = foreign.state_of(one, SMALL) | foreign.state_of(two, SMALL)
    with pytest.raises(CheckpointError, match=f"names of .*{one}.* and |names of .*{two}.* and "):
        recognise(both, PATH)


@pytest.mark.parametrize(
    ("network", "keys"),
    [
        (
            "ViT or DeiT",
            [
                "cls_token",
                "dist_token",
                "pos_embed",
                "patch_embed.proj.weight",
                "blocks.0.attn.qkv.weight",
                "blocks.0.mlp.fc1.weight",
                "head.weight",
            ],
        ),
        (
            "TinyViT",
            [
                "patch_embed.seq.0.c.weight",
                "layers.0.blocks.0.conv1.c.weight",
                "layers.1.blocks.0.attn.norm.weight",
                "layers.1.blocks.0.attn.qkv.weight",
                "layers.1.blocks.0.attn.attention_biases",
                "layers.1.blocks.0.local_conv.c.weight",
            ],
        ),
        (
            "TinyViT",  # timm's
            [
                "patch_embed.conv1.conv.weight",
                "stages.1.blocks.0.attn.norm.weight",
                "stages.1.blocks.0.attn.qkv.weight",
                "stages.1.blocks.0.attn.attention_biases",
                "stages.1.blocks.0.local_conv.conv.weight",
                "head.fc.weight",
            ],
        ),
        (
            "EfficientFormer",
            [
                "patch_embed.0.weight",
                "patch_embed.1.running_mean",
                "network.6.4.token_mixer.attention_biases",
                "head.weight",
                "dist_head.weight",
            ],
        ),
        (
            "EfficientFormer",  # timm's
            [
                "stem.conv1.weight",
                "stem.norm1.weight",
                "head.weight",
                "head_dist.weight",
                "stages.3.blocks.3.token_mixer.attention_biases",
            ],
        ),
        ("Swin", ["layers.0.blocks.0.attn.relative_position_bias_table"]),
        ("LeViT-UNet", ["cnn_b1.0.c.weight", "block_1.0.m.qkv.c.weight"]),
        ("Expected the names of a LeViT", ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"]),
    ],
)
def test_another_network_is_refused_with_the_names_seen(network, keys):
    with pytest.raises(CheckpointError) as caught:
        recognise(dict.fromkeys(keys, torch.ones(1)), PATH)
    assert network in str(caught.value)
    assert keys[0] in str(caught.value)
