import pytest
import torch

from levit_deploy.checkpoint.families.rename import InBlock, rename
from levit_deploy.errors import CheckpointError


def test_blocks_are_numbered_in_the_order_of_their_positions():
    places = {"a": (1,), "b": (0, 1), "c": (0, 0), "d": (1,)}
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


@pytest.mark.parametrize(
    "positions",
    [
        [(0, 0), (0, 2)],
        [(0, 0), (2, 0)],
        [(1, 0)],
        [(0, 1)],
        [(0, -1, 0), (0, 1, 0)],
        [(0, 0, 0), (0, 1, 1)],
        [(0, 0), (77, 0)],
    ],
)
def test_a_gap_between_blocks_is_refused(positions):
    names = {str(position): InBlock(position, "w") for position in positions}
    with pytest.raises(CheckpointError, match=r"a part of one, is missing before \("):
        rename(dict.fromkeys(names, torch.ones(1)), names.__getitem__)


def test_what_comes_before_the_first_may_be_there_or_not():
    for positions in ([(0, -1), (0, 0)], [(0, 0), (0, 1)]):
        names = {str(position): InBlock(position, "w") for position in positions}
        renamed = rename(dict.fromkeys(names, torch.ones(1)), names.__getitem__)
        assert list(renamed) == ["blocks.0.w", "blocks.1.w"]
