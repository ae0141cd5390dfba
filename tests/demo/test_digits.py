"""The demo's scans are real ones."""

import numpy as np
from sklearn.datasets import load_digits

from levit_deploy.demo.digits import MEAN, STD, held_out, to_input


def test_the_held_out_scans_are_real_ones():
    digits = load_digits()
    label_of = {
        image.tobytes(): label
        for image, label in zip(
            to_input(digits.images.astype(np.uint8)), digits.target, strict=True
        )
    }
    ours = held_out()
    assert ours.labels.tolist() == [label_of[image.tobytes()] for image in ours.images]
    assert len({image.tobytes() for image in ours.images}) == 360


def test_the_normalisation_is_that_of_the_scans():
    pixels = load_digits().images / 16
    np.testing.assert_allclose((pixels.mean(), pixels.std()), (MEAN, STD), atol=1e-3)
