import pytest
import torch

from levit_deploy.checkpoint.rename import InBlock, rename
from levit_deploy.errors import CheckpointError


def test_blocks_are_numbered_in_the_order_of_their_positions():
    places = {"a": (10,), "b": (9, 1), "c": (9, 0), "d": (10,)}
    state = {key: torch.tensor(float(i)) for i, key in enumerate(places)}
    renamed = rename(state, lambda key: InBlock(places[key], f"m.{key}"))
    assert {name: tensor.item() for name, tensor in renamed.items()} == {
        "blocks.2.m.a": 0,
        "blocks.1.m.b": 1,
        "blocks.0.m.c": 2,
        "blocks.2.m.d": 3,
    }


def test_pointwise_convolutions_of_the_trunk_become_linear():
    weight = torch.arange(6.0).reshape(2, 3, 1, 1)
    state = {"blocks.0.w": weight, "patch_embed.0.c.weight": weight, "blocks.1.w": weight[..., 0]}
    renamed = rename(state, str)
    assert torch.equal(renamed["blocks.0.w"], torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert renamed["patch_embed.0.c.weight"].shape == (2, 3, 1, 1)
    assert renamed["blocks.1.w"].shape == (2, 3, 1)


def test_wider_kernels_stay():
    assert rename({"blocks.0.w": torch.ones(2, 3, 3, 3)}, str)["blocks.0.w"].shape == (2, 3, 3, 3)


def test_two_tensors_under_one_name_are_refused():
    with pytest.raises(CheckpointError, match="y and another tensor are both same"):
        rename({"x": torch.ones(1), "y": torch.ones(1)}, lambda _: "same")
