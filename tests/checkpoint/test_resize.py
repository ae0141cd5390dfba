import networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL

from levit_deploy.checkpoint.resize import interpolate_biases, resize
from levit_deploy.errors import UsageError


def bilinear(table, y, x):
    """The value between the four neighbours, by hand."""
    y0, x0 = min(int(y), table.shape[0] - 1), min(int(x), table.shape[1] - 1)
    y1, x1 = min(y0 + 1, table.shape[0] - 1), min(x0 + 1, table.shape[1] - 1)
    fy, fx = y - y0, x - x0
    top = table[y0, x0] * (1 - fx) + table[y0, x1] * fx
    bottom = table[y1, x0] * (1 - fx) + table[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


sides = st.tuples(st.integers(1, 7), st.integers(1, 7))


@settings(deadline=None, max_examples=60)
@given(sides, sides, st.integers(1, 3))
def test_biases_are_interpolated_corner_to_corner(grid, new_grid, heads):
    biases = torch.randn(heads, grid[0] * grid[1], dtype=torch.float64)
    actual = interpolate_biases(biases, grid, new_grid).numpy()
    for head, table in enumerate(biases.numpy().reshape(heads, *grid)):
        for y in range(new_grid[0]):
            for x in range(new_grid[1]):
                place = [
                    offset * (old - 1) / (new - 1) if new > 1 else 0.0
                    for offset, old, new in zip((y, x), grid, new_grid, strict=True)
                ]
                expected = bilinear(table, *place)
                assert actual[head, y * new_grid[1] + x] == pytest.approx(expected, abs=1e-12)


def test_the_same_grid_changes_no_bit():
    biases = torch.randn(2, 24)
    assert torch.equal(interpolate_biases(biases, (4, 6), (4, 6)), biases)


def test_the_nearest_and_the_farthest_bias_are_kept():
    biases = torch.randn(2, 24)
    larger = interpolate_biases(biases, (4, 6), (9, 5))
    assert torch.equal(larger[:, 0], biases[:, 0])
    assert torch.equal(larger[:, -1], biases[:, -1])


@pytest.mark.parametrize("norm", ["batchnorm", "layernorm", "batchnorm-in-attention", "none"])
def test_only_the_biases_change(norm):
    config = SMALL.replace(norm=norm)
    model = networks.trained(config)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    resized, new_config = resize(model, config, (96, 160))

    assert new_config == config.replace(image_size=(96, 160))
    after = resized.state_dict()
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        assert torch.equal(model.state_dict()[key], tensor)  # the original is as it was
        if "attention_bias" not in key:
            assert torch.equal(after[key], tensor)
    expected = interpolate_biases(before["blocks.0.m.attention_biases"], (4, 6), (6, 10))
    assert torch.equal(after["blocks.0.m.attention_biases"], expected)
    expected = interpolate_biases(before["blocks.8.attention_biases"], (2, 3), (3, 5))
    assert torch.equal(after["blocks.8.attention_biases"], expected)
    with torch.inference_mode():
        assert resized(torch.randn(2, 3, 96, 160)).shape == (2, 7)


def test_a_size_with_the_same_tokens_computes_with_the_same_weights():
    model = networks.trained()
    resized, config = resize(model, SMALL, (63, 95))
    assert config.resolutions == SMALL.resolutions
    x = torch.zeros(1, 3, 64, 96)
    assert np.array_equal(networks.float64_logits(resized, x), networks.float64_logits(model, x))


def test_a_size_beyond_all_memory_is_refused():
    with pytest.raises(UsageError, match=r"--image-size 4096x4096.*tokens"):
        resize(networks.trained(), SMALL, (4096, 4096))
