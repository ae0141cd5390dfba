import numpy as np
import pytest
import torch

from levit_deploy.choices import DTYPES, PRECISIONS
from levit_deploy.verification.budget import budget, log_probabilities, rms

REFERENCE = np.array([[8.0, -2.0], [1.0, 0.5]])


def test_the_unit_is_the_originals_own_error():
    original = (REFERENCE + np.array([[1e-3, 0], [0, -3e-3]])).astype(np.float32)
    allowed = budget([original], REFERENCE)
    error = np.array([1e-3, 0, 0, 3e-3])
    np.testing.assert_allclose(allowed.rmse, 2 * np.sqrt((error**2).mean()), rtol=1e-3)
    np.testing.assert_allclose(allowed.max_error, 4 * 3e-3, rtol=1e-3)


def test_an_exact_original_still_leaves_a_few_ulps_of_the_largest_logit():
    allowed = budget([REFERENCE.astype(np.float32)], REFERENCE)
    ulp = np.spacing(np.float32(8.0))  # 2^-20
    assert 1 <= allowed.rmse / ulp <= 2
    assert 2 <= allowed.max_error / ulp <= 4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_floor_is_in_steps_of_the_precision(precision):
    allowed = budget([REFERENCE], REFERENCE, precision)
    ulp = torch.finfo(getattr(torch, DTYPES[precision])).eps * 8  # the spacing at 8
    assert (allowed.rmse, allowed.max_error) == (2 * ulp, 4 * ulp)


def test_of_several_draws_the_largest_counts():
    small, large = (REFERENCE + error for error in (1e-3, np.array([[0, 0], [0, 3e-3]])))
    alone = budget([small.astype(np.float32)], REFERENCE)
    both = budget([small.astype(np.float32), large.astype(np.float32)], REFERENCE)
    np.testing.assert_allclose(alone.rmse, 2e-3, rtol=1e-3)
    np.testing.assert_allclose(both.rmse, 2 * 1.5e-3, rtol=1e-3)
    np.testing.assert_allclose(both.max_error, 4 * 3e-3, rtol=1e-3)


def test_rms_by_hand():
    assert rms(np.array([[3.0, 4.0], [0.0, 0.0]])) == 2.5
    assert np.isnan(rms(np.array([np.nan, 1.0])))


def test_probabilities_show_what_a_softmax_would_hide():
    certain = np.array([[1 - 2e-9, 1e-9, 1e-9]])
    wrong = np.array([[1 - 3e-9, 2e-9, 1e-9]])  # nothing, against 1
    assert np.abs(log_probabilities(wrong) - log_probabilities(certain)).max() > 0.69
    ends = log_probabilities(np.array([0.0, 1e-35, 1e-30, 1.0]))
    assert list(ends) == [np.log(1e-30)] * 3 + [0.0]
    assert np.isnan(log_probabilities(np.array([np.nan]))).all()
