import time

import numpy as np
import pytest
from float_graphs import CONFIG, noise
from networks import images

from levit_deploy.runtime.sessions import filled, runner


def test_one_thread_is_the_callers_own(plain):
    """So the time of that thread is all that a network takes."""
    run, given = runner(plain.SerializeToString(), None, threads=1), images(CONFIG, 8).numpy()
    run(given)
    mine, everybodys = time.thread_time(), time.process_time()
    for _ in range(20):
        run(given)
    assert time.thread_time() - mine > 0.9 * (time.process_time() - everybodys)


@pytest.mark.parametrize(("batch", "sizes"), [(None, [8, 3]), (4, [4, 4, 4])])
def test_any_number_of_images_runs_in_batches(batch, sizes):
    given = []

    def run(images):
        given.append(len(images))
        return images.mean((2, 3))

    images = noise(11)
    np.testing.assert_array_equal(filled(run, batch)(images), images.mean((2, 3)))
    assert given == sizes
