import numpy as np
import pytest
from networks import SMALL
from prepared import transform_of

from levit_deploy.errors import UsageError
from levit_deploy.interface import Interface
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.verification.inputs import as_taken, image_case, pixel_cases, standard_cases

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


# --- bytes ----------------------------------------------------------------------------------------

PREPROCESSING = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
TRANSFORM = transform_of(SMALL, PREPROCESSING)
PIXEL_CASES = {case.name: case for case in pixel_cases(TRANSFORM, seed=0)}


@pytest.mark.parametrize("name", PIXEL_CASES)
@pytest.mark.parametrize("n", [1, 5])
def test_bytes_are_the_same_every_time_and_all_different(name, n):
    pixels = PIXEL_CASES[name].draw(n)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (n, 64, 96, 3)
    assert len({image.tobytes() for image in pixels}) == n
    again = {case.name: case for case in pixel_cases(TRANSFORM, seed=0)}[name]
    assert pixels.tobytes() == again.draw(n).tobytes()


def test_each_kind_of_bytes_is_what_its_name_says():
    normal = TRANSFORM.normalise(PIXEL_CASES["normal"].draw(8))
    np.testing.assert_allclose(normal.mean((0, 2, 3)), 0, atol=0.05)  # a little is cut off
    np.testing.assert_allclose(normal.std((0, 2, 3)), 0.95, atol=0.05)
    zeros = PIXEL_CASES["zeros"].draw(4).astype(int)
    mean = (102, 128, 153)
    assert (zeros[0] == mean).all()
    assert np.abs(zeros[1:] - mean).max() == 1
    constant = PIXEL_CASES["constant"].draw(4)
    assert np.ptp(constant, axis=(1, 2, 3)).max() == 0
    assert list(constant[:2, 0, 0, 0]) == [0, 255]
    pixels = PIXEL_CASES["pixels"].draw(6)
    white = (pixels == 255).all(-1)
    assert (white.sum((1, 2)) == 1).all()
    assert (pixels[~white] == mean).all()
    assert set(np.unique(PIXEL_CASES["extreme"].draw(2))) == {0, 255}


def test_bytes_are_normalised_for_who_takes_images_and_not_the_other_way():
    pixels = PIXEL_CASES["normal"].draw(2)
    taken = as_taken(image_case("mine", pixels), Interface(), TRANSFORM)
    np.testing.assert_array_equal(taken.draw(2), TRANSFORM.normalise(pixels))
    own = image_case("mine", pixels)
    assert as_taken(own, Interface("uint8"), TRANSFORM) is own
    with pytest.raises(UsageError, match="'normal' are float32"):
        as_taken(CASES["normal"], Interface("uint8"), TRANSFORM)
