import foreign
from networks import SMALL

from levit_deploy.checkpoint import layernorm

STATE = foreign.state_of("LayerNorm variant", SMALL)


def test_only_the_projection_of_attention_has_another_name():
    converted = layernorm.convert(STATE)
    changed = {key for key in STATE if key not in converted}
    attentions = (0, 2, 6, 9)  # blocks 4 and 8 subsample and have the official names
    assert changed == {f"blocks.{i}.m.proj.{p}" for i in attentions for p in ("weight", "bias")}
    for key in changed:
        assert converted[key.replace("proj.", "proj.1.")] is STATE[key]
