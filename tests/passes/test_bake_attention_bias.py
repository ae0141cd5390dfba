import numpy as np
import torch
from networks import SMALL, float64_logits, images, trained

from levit_deploy.config import Downsample
from levit_deploy.model import AttentionBias
from levit_deploy.passes.bake_attention_bias import AttentionBiasTable, bake_attention_bias


def table_by_hand(biases: np.ndarray, grid: tuple[int, int], stride: int) -> np.ndarray:
    height, width = grid
    queries = [(y, x) for y in range(0, height, stride) for x in range(0, width, stride)]
    keys = [(y, x) for y in range(height) for x in range(width)]
    rows = [[abs(qy - y) * width + abs(qx - x) for y, x in keys] for qy, qx in queries]
    return np.stack([[[head[i] for i in row] for row in rows] for head in biases])


def test_the_tables_are_those_gathered_by_hand():
    model = trained()
    baked = bake_attention_bias(model)
    for name, grid, stride in (
        ("blocks.0.m", (4, 6), 1),
        ("blocks.4", (4, 6), 2),
        ("blocks.6.m", (2, 3), 1),
        ("blocks.8", (2, 3), 2),
        ("blocks.9.m", (1, 2), 1),
    ):
        biases = model.get_submodule(name).attention_bias.biases.detach().numpy()
        table = baked.get_submodule(name).attention_bias()
        np.testing.assert_array_equal(table.numpy(), table_by_hand(biases, grid, stride))


def test_a_stride_of_three_keeps_every_third_row_and_column():
    config = SMALL.replace(
        stages=SMALL.stages[:2],
        downsamples=(Downsample(num_heads=5, key_dim=4, value_dim=12, mlp_dim=0, stride=3),),
    )
    model = trained(config)
    biases = model.blocks[4].attention_bias.biases.detach().numpy()
    table = bake_attention_bias(model).blocks[4].attention_bias()
    assert table.shape == (5, 2 * 2, 4 * 6)
    np.testing.assert_array_equal(table.numpy(), table_by_hand(biases, (4, 6), 3))


def test_the_function_is_the_same_in_float64():
    expected = float64_logits(trained(), images())
    got = float64_logits(bake_attention_bias(trained()), images())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_no_gathered_bias_is_left():
    baked = bake_attention_bias(trained())
    assert not any(isinstance(module, AttentionBias) for module in baked.modules())
    assert sum(isinstance(module, AttentionBiasTable) for module in baked.modules()) == 6
    assert not any("biases" in name for name, _ in baked.named_parameters())


def test_the_tables_are_part_of_the_state_dict_and_no_parameters():
    baked = bake_attention_bias(trained())
    tables = [key for key in baked.state_dict() if key.endswith(".attention_bias.table")]
    assert len(tables) == 6
    assert not any("table" in name for name, _ in baked.named_parameters())
    assert not any(buffer.requires_grad for buffer in baked.buffers())


def test_a_table_does_not_follow_later_changes_of_its_source():
    model = trained()
    baked = bake_attention_bias(model)
    before = baked.blocks[0].m.attention_bias().clone()
    with torch.no_grad():
        model.blocks[0].m.attention_bias.biases.zero_()
    assert torch.equal(baked.blocks[0].m.attention_bias(), before)
    assert before.any()
