"""Images that show what attention that is decided hides."""

import numpy as np
import pytest
import torch
from networks import SMALL, trained
from prepared import transform_of

from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.verification.inputs import pixel_cases, standard_cases
from levit_deploy.verification.original import Original
from levit_deploy.verification.telling import telling_case

HALF = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
TRANSFORM = transform_of(SMALL, HALF)
NORMAL = standard_cases(SMALL, seed=0)[0]


def with_queries_times(gain, seed=1):
    """A network whose subsampling looks at one key alone if its queries are loud."""
    model = trained(seed=seed)
    for block in model.blocks:
        if hasattr(block, "q"):
            for parameter in (block.q[1].bn.weight, block.q[1].bn.bias):
                parameter.data.mul_(gain)
    return Original(model=model, config=SMALL, head="mean", transform=TRANSFORM)


def share_that_tells(model, images):
    """The share of the images on which the tokens differ, behind the block of which it is least."""
    shares = []
    with torch.inference_mode():
        x = model.to_tokens(model.patch_embed(torch.from_numpy(images)))
        for block in model.blocks:
            x = block(x)
            apart = (x - x.mean(1, keepdim=True)).abs().amax((1, 2)) / x.abs().amax((1, 2))
            shares.append(float((apart > 1e-3).float().mean()))
    return min(shares)


def test_behind_decided_attention_images_are_found_whose_tokens_differ():
    original = with_queries_times(300)
    case = telling_case(original, NORMAL, 0)
    assert share_that_tells(original.model, NORMAL.draw(64)) < 0.15
    assert share_that_tells(original.model, case.draw(99)) > 0.4
    again = telling_case(with_queries_times(300), NORMAL, 0)
    np.testing.assert_array_equal(again.draw(99), case.draw(99))
    assert case.draw(99).dtype == np.float32
    assert case.sizes == (len(case.draw(99)),) * 3


def test_a_network_whose_attention_is_divided_needs_no_search():
    assert telling_case(with_queries_times(1, seed=0), NORMAL, 0) is None


def test_bytes_stay_bytes():
    normal = pixel_cases(TRANSFORM, seed=0)[0]
    images = telling_case(with_queries_times(300), normal, 0).draw(99)
    assert images.dtype == np.uint8
    assert images.shape[1:] == normal.draw(1).shape[1:]


@pytest.mark.parametrize("norm", ["none", "layernorm"])
def test_any_family_can_be_looked_into(norm):
    config = SMALL.replace(norm=norm)
    original = Original(model=trained(config), config=config, head="mean", transform=TRANSFORM)
    case = telling_case(original, NORMAL, 0)
    assert case is None or len(case.draw(99)) >= 2
