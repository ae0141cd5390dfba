import itertools

import networks
import pytest
from hypothesis import given, settings

from levit_deploy.bench.matmul import products, products_alone
from levit_deploy.config import VARIANTS, subsampled
from levit_deploy.cost import count_macs


def macs(config):
    """Of all products, and of the stem's convolutions."""
    total, grid = 0, config.image_size
    for in_dim, out_dim in itertools.pairwise((config.in_channels, *config.stem_dims)):
        grid = subsampled(grid, 2)
        total += grid[0] * grid[1] * 9 * in_dim * out_dim
    return total + sum(
        many * rows * inner * columns for many, rows, inner, columns in products(config)
    )


def softmax_entries(config):
    tokens = [height * width for height, width in config.resolutions]
    entries = sum(s.depth * s.num_heads * n * n for s, n in zip(config.stages, tokens, strict=True))
    pairs = zip(config.downsamples, itertools.pairwise(tokens), strict=True)
    return entries + sum(down.num_heads * n * queries for down, (n, queries) in pairs)


@settings(deadline=None, max_examples=30)
@given(networks.configs())
def test_the_products_are_all_there_is_to_multiply(config):
    one_head = count_macs(config.replace(distillation=False))
    assert macs(config) == one_head - softmax_entries(config)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_they_run(batch_size):
    config = VARIANTS["LeViT-128S"].replace(image_size=(64, 64))
    products_alone(config, batch_size, threads=1)()
