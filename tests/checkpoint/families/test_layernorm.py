import foreign
from networks import SMALL

from levit_deploy.checkpoint.families import layernorm

STATE = foreign.state_of("LayerNorm variant", SMALL)


def test_only_the_projection_of_attention_has_another_name():
    converted = layernorm.convert(STATE)
    changed = {key for key in STATE if key not in converted}
    attentions = (0, 2, 6, 9)  # blocks 4 and 8 subsample and have the official names
    assert changed == {f"blocks.{i}.m.proj.{p}" for i in attentions for p in ("weight", "bias")}
    for key in changed:
        assert converted[key.replace("proj.", "proj.1.")] is STATE[key]


def test_everything_but_attention_is_as_in_the_official_model():
    for key in (
        "patch_embed.0.c.weight",
        "patch_embed.0.bn.running_var",
        "blocks.0.m.norm.weight",
        "blocks.0.m.norm.bias",
        "blocks.0.m.qkv.weight",
        "blocks.0.m.qkv.bias",
        "blocks.0.m.proj.weight",
        "blocks.0.m.proj.bias",
        "blocks.0.m.attention_biases",
        "blocks.1.m.0.c.weight",
        "blocks.1.m.2.bn.running_mean",
        "blocks.4.kv.bn.weight",
        "blocks.4.q.1.c.weight",
        "blocks.4.proj.1.bn.bias",
        "head.bn.weight",
        "head_dist.l.weight",
    ):
        assert key in STATE
    assert not [key for key in STATE if key.startswith("blocks.0.") and (".bn." in key)]
