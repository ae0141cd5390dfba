import pytest
import torch

from levit_deploy.choices import DTYPES, EPS, PRECISIONS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_is_that_of_torch(precision):
    assert EPS[precision] == torch.finfo(getattr(torch, DTYPES[precision])).eps


def test_each_is_described():
    assert set(PRECISIONS) == DTYPES.keys() == EPS.keys()
