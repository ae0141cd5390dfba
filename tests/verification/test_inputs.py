import numpy as np
import pytest
from networks import SMALL

from levit_deploy.verification.inputs import image_case, standard_cases

CASES = {case.name: case for case in standard_cases(SMALL, seed=0)}


def test_there_are_six_kinds():
    assert list(CASES) == ["normal", "zeros", "constant", "pixels", "large", "tiny"]


@pytest.mark.parametrize("name", CASES)
def test_images_are_float32_of_the_networks_shape_and_the_same_every_time(name):
    again = {case.name: case for case in standard_cases(SMALL, seed=0)}[name]
    images = CASES[name].draw(5)
    assert images.dtype == np.float32
    assert images.shape == (5, 3, 64, 96)
    assert images.tobytes() == again.draw(5).tobytes()


def test_another_seed_gives_other_images():
    other = standard_cases(SMALL, seed=1)[0]
    assert not np.array_equal(other.draw(2), CASES["normal"].draw(2))


def test_each_kind_is_what_its_name_says():
    assert abs(CASES["normal"].draw(8).std() - 1) < 0.02
    zeros = CASES["zeros"].draw(4)
    assert not zeros[0].any()
    assert 0 < np.abs(zeros[1:]).max() < 0.01
    constant = CASES["constant"].draw(4)
    assert np.ptp(constant, axis=(1, 2, 3)).max() == 0
    assert len(np.unique(constant)) == 4
    pixels = CASES["pixels"].draw(6)
    assert (np.count_nonzero(pixels, axis=(1, 2, 3)) == 3).all()  # one place, every channel
    assert (pixels.max(axis=(1, 2, 3)) > 2.64).all()  # brighter than any picture's white
    assert len({tuple(np.argwhere(image)[0, 1:]) for image in pixels}) == 6
    assert CASES["large"].draw(4).std() > 5
    tiny = CASES["tiny"].draw(32).std(axis=(1, 2, 3))
    assert 1e-9 < tiny.min() < 1e-6
    assert 1e-3 < tiny.max() < 0.2


def test_given_images_are_taken_as_they_are():
    images = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    case = image_case("mine", images)
    assert case.sizes == (2,)
    assert np.array_equal(case.draw(2), images)
