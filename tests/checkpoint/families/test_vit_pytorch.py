import foreign
import pytest
import torch
from networks import SMALL

from levit_deploy.checkpoint.families import vit_pytorch
from levit_deploy.errors import CheckpointError

STATE = foreign.state_of("vit-pytorch", SMALL)
ATTENTION = "backbone.0.layers.0.0"


def test_q_k_and_v_stand_head_by_head():
    converted = vit_pytorch.convert(STATE)
    rows = converted["blocks.0.m.qkv.c.weight"].reshape(3, 4 + 4 + 10, 12)
    for part, first, width in (("to_q", 0, 4), ("to_k", 4, 4), ("to_v", 8, 10)):
        theirs = STATE[f"{ATTENTION}.{part}.0.weight"][:, :, 0, 0].reshape(3, width, 12)
        assert torch.equal(rows[:, first : first + width], theirs)


def test_subsampling_keeps_its_queries_apart():
    converted = vit_pytorch.convert(STATE)
    assert converted["blocks.4.q.1.c.weight"].shape == (5 * 4, 12)
    assert converted["blocks.4.kv.c.weight"].shape == (5 * (4 + 12), 12)


@pytest.mark.parametrize("shape", [(25, 12, 1, 1), (24, 11, 1, 1), ()])
def test_queries_that_do_not_divide_are_refused(shape):
    state = {**STATE, f"{ATTENTION}.to_q.0.weight": torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=r"to_q\.0\.weight .*heads"):
        vit_pytorch.convert(state)


def test_the_stem_of_the_first_releases_is_named_with_a_way_out():
    state = {key.replace("conv_embedding", "to_patch_embedding"): STATE[key] for key in STATE}
    with pytest.raises(CheckpointError, match=r"to_patch_embedding.* vit-pytorch==0\.15\.2"):
        vit_pytorch.convert(state)


@pytest.mark.parametrize("shape", [(24,), (24, 0), (0, 3), ()])
def test_a_bias_of_another_rank_is_refused(shape):
    state = {**STATE, f"{ATTENTION}.pos_bias.weight": torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=r"pos_bias\.weight has the shape"):
        vit_pytorch.convert(state)


def test_a_lone_value_layer_stays_under_its_name():
    state = dict(STATE)
    del state[f"{ATTENTION}.to_k.0.weight"]
    assert any(key.endswith("to_v.0.weight") for key in vit_pytorch.convert(state))


def test_the_input_is_left_alone():
    keys = list(STATE)
    vit_pytorch.convert(STATE)
    assert list(STATE) == keys
