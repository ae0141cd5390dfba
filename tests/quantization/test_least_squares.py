"""Rounding weights together, beside every choice there is."""

import itertools

import numpy as np

from levit_deploy.quantization import least_squares
from levit_deploy.quantization.least_squares import Moments, rounded_together
from levit_deploy.targets.onnx_rounding import rounded_weight

RNG = np.random.default_rng(0)


def correlated(samples, inputs):
    return RNG.standard_normal((samples, inputs)) @ RNG.standard_normal((inputs, inputs))


def moments(x, rounded):
    return Moments(rounded.T @ rounded / len(x), (x - rounded).T @ rounded / len(x))


def loss(weight, numbers, scale, x, rounded):
    """The mean squared error of each row, by the definition."""
    return ((x @ weight.T - rounded @ (numbers * scale[:, None]).T) ** 2).mean(0)


def test_equal_inputs_share_the_error():
    both = np.ones((1, 2))
    numbers = rounded_together(np.array([[0.4, 0.4], [-2.4, 3.0]]), np.ones(2), moments(both, both))
    np.testing.assert_array_equal(numbers.sum(1), [1, 1])  # 0.8 and 0.6; the nearest are 0 and 1


def test_weights_make_up_for_smaller_inputs():
    x = np.ones((1, 1))
    numbers = rounded_together(np.array([[10.2]]), np.ones(1), moments(x, 0.97 * x))
    assert numbers[0, 0] == 11  # 10.2 / 0.97 = 10.5, and a little less by the damping


def test_it_comes_near_the_best_of_all_choices():
    x = RNG.standard_normal((400, 3)) @ RNG.standard_normal((3, 6))  # of three sources
    x += 0.3 * RNG.standard_normal(x.shape)
    rounded = x + 0.05 * RNG.standard_normal(x.shape)
    weight, scale = RNG.uniform(-9, 9, (50, 6)), np.ones(50)
    found = rounded_together(weight, scale, moments(x, rounded))
    choices = [np.floor(weight) + choice for choice in itertools.product((0, 1), repeat=6)]
    losses = np.array([loss(weight, choice, scale, x, rounded) for choice in choices])
    nearest = loss(weight, np.rint(weight), scale, x, rounded)
    ours = loss(weight, found, scale, x, rounded)
    assert np.all((found == np.floor(weight)) | (found == np.ceil(weight)))
    # measured in three draws: 0.46 to 0.66 of the nearest's loss, 1.3 to 1.7 times the least
    assert ours.mean() < 0.75 * nearest.mean()
    assert ours.mean() < 1.9 * losses.min(0).mean()


def test_no_pair_overflows_16_bits_and_zeros_stay():
    weight = RNG.uniform(0.2, 1, (400, 8)).astype(np.float32)
    weight[:, 3] = 0
    weight[::2, 4] = weight[::2, 5]  # 63.5 steps, each
    _, scale = rounded_weight(weight, "any")
    x = correlated(100, 8)
    numbers = rounded_together(weight.astype(float), scale.astype(float), moments(x, x))
    sums = numbers.astype(int).reshape(len(weight), -1, 2).sum(2)
    assert sums.max() == 128  # 255 * 128 < 2^15
    assert not numbers[:, 3].any()


def test_a_step_that_was_rounded_makes_no_weight_too_large():
    """127 steps and 64 + 63 steps, with scales on both sides of the exact ones."""
    x = correlated(100, 2)
    for scale in (1 - 1e-7, 1 + 1e-7):
        rows = np.array([[127.0, -127.0], [64.0, 63.0]])
        numbers = rounded_together(rows, np.full(2, scale), moments(1.5 * x, x))
        np.testing.assert_array_equal(numbers, rows)


def test_inputs_that_are_always_zero_say_nothing():
    weight = np.array([[1.4, -2.6]])
    zeros = np.zeros((3, 2))
    numbers = rounded_together(weight, np.ones(1), moments(zeros, zeros))
    np.testing.assert_array_equal(numbers, [[1, -3]])


def test_moving_many_numbers_at_once_changes_nothing(monkeypatch):
    x = correlated(200, 70)
    weight, scale = RNG.uniform(-9, 9, (5, 70)), np.ones(5)
    found = rounded_together(weight, scale, moments(x, x))
    for together in (1, 70):
        monkeypatch.setattr(least_squares, "TOGETHER", together)
        np.testing.assert_array_equal(rounded_together(weight, scale, moments(x, x)), found)
