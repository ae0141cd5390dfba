import networks
import pytest
import torch

from levit_deploy.checkpoint.families import official


def golden_state(name):
    path, _, _ = networks.golden(name)
    return torch.load(path, weights_only=False)["model"]


@pytest.mark.parametrize("name", ["official", "official-conv", "official-training-run"])
def test_official_names_match(name):
    assert official.matches(golden_state(name).keys())


def test_a_stem_or_an_attention_block_is_enough():
    assert official.matches(["patch_embed.0.c.weight"])
    assert official.matches(["blocks.0.m.qkv.c.weight"])


@pytest.mark.parametrize(
    "key",
    [
        "stem.conv1.linear.weight",  # timm
        "stages.0.blocks.0.attn.qkv.linear.weight",
        "levit.patch_embeddings.embedding_layer_1.convolution.weight",  # transformers
        "levit.encoder.stages.0.layers.0.module.queries_keys_values.linear.weight",
        "conv_embedding.0.weight",  # vit-pytorch
        "backbone.0.layers.0.0.to_q.0.weight",
        "patch_embed.proj.weight",  # timm's ViT
        "blocks.0.attn.qkv.weight",
        "conv1.weight",
    ],
)
def test_names_of_other_families_do_not_match(key):
    assert not official.matches([key])


def test_no_names_match_nothing():
    assert not official.matches([])


def test_conversion_keeps_every_tensor_under_its_name():
    state = golden_state("official")
    converted = official.convert(state)
    assert list(converted) == list(state)
    assert all(converted[key] is state[key] for key in state)


def test_the_convolutional_form_has_the_names_and_shapes_of_the_linear_one():
    converted = official.convert(golden_state("official-conv"))
    assert converted["blocks.0.m.qkv.c.weight"].shape == (64, 16)
    assert converted["patch_embed.0.c.weight"].shape == (2, 3, 3, 3)


def test_what_official_code_has_fused_matches():
    assert official.matches(["blocks.0.m.qkv.weight", "patch_embed.0.weight", "head.weight"])


def test_the_layernorm_variant_does_not_match():
    assert not official.matches(["patch_embed.0.c.weight", "blocks.0.m.norm.weight"])


def test_conversion_gives_a_dict_of_its_own():
    state = golden_state("official")
    n = len(state)
    official.convert(state).clear()
    assert len(state) == n


# as save_for_hf of timm 0.6.13 writes it
FOLDER = {
    "architecture": "levit_256d",
    "num_classes": 3,
    "input_size": [3, 224, 224],
    "crop_pct": 0.9,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "first_conv": "patch_embed.0.c",
    "labels": ["cat", "dog", "newt"],
}


def test_a_hub_folder_of_an_old_timm_states_its_facts_and_means_hardswish():
    facts = official.known(FOLDER)
    assert (facts.activation, facts.attention_activation) == ("hardswish", "hardswish")
    assert facts.labels == ("cat", "dog", "newt")
    assert str(facts.preprocessing) == "crop 0.9, bilinear, mean 0.5 0.5 0.5, std 0.5 0.5 0.5"
    assert facts.stated["classes"] == 3
    assert facts.told == ("activation hardswish, by config.json",)


def test_the_activation_of_a_folder_is_that_of_its_arguments():
    facts = official.known(FOLDER | {"model_args": {"act_layer": "gelu"}})
    assert (facts.activation, facts.attention_activation) == ("gelu", "hardswish")
    assert facts.told == ("activation gelu, by config.json",)


def test_another_config_beside_official_names_states_nothing():
    assert official.known({"architecture": "LeViT_256", "num_classes": 3}) == official.known({})
