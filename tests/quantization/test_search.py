import dataclasses

import numpy as np
import pytest
from float_graphs import CONFIG, centred, float_graph, noise, save_pictures
from prepared import transform_of

from levit_deploy.errors import VerificationError
from levit_deploy.pictures.split import split_pictures
from levit_deploy.quantization.calibration import METHODS
from levit_deploy.quantization.rounding import quantized_blocks
from levit_deploy.quantization.search import search
from levit_deploy.runtime.sessions import filled, runner
from levit_deploy.verification.rounding import check_rounding


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = save_pictures(tmp_path_factory.mktemp("pictures"), CONFIG.num_classes, each=8)
    calibration, judging = split_pictures(folder, transform_of(CONFIG), CONFIG.num_classes)
    return calibration, dataclasses.replace(judging, labels=None)  # a random network is never right


@pytest.fixture(scope="module")
def plain():
    return float_graph(model=centred())


def found(plain, pictures, **options):
    told = []
    options = {"cpu": "any", "max_drop": 30.0, "block_names": {}, **options}
    return *search(plain, *pictures, progress=told.append, **options), told


@pytest.mark.slow
def test_the_method_with_the_least_error_is_taken(plain, pictures):
    model, how, told = found(plain, pictures)
    assert how.errors.keys() == set(METHODS)
    assert how.errors[how.method] == min(how.errors.values())
    calibration = pictures[0]
    expected, got = (runner(m.SerializeToString(), None)(calibration) for m in (plain, model))
    measured = np.sqrt(np.mean((got - expected).astype(float) ** 2)) / expected.std()
    assert how.errors[how.method] == pytest.approx(measured, rel=1e-4)
    assert how.float_blocks == ()
    assert how.calibrated_on == len(calibration)
    assert how.costs.keys() == set(quantized_blocks(model))
    assert all(0 < cost < how.errors[how.method] * 3 for cost in how.costs.values())
    assert len(told) >= len(METHODS) + len(how.costs) + 1
    check_rounding(model, plain)


@pytest.mark.slow
def test_blocks_are_left_in_float_in_the_order_of_what_they_cost(plain, pictures):
    drop = found(plain, pictures)[1].accuracy.drop
    assert drop > 1
    parts = ["head", *(f"{part}.{i}" for part in ("patch_embed", "blocks") for i in range(20))]
    own_names = {part: f"their {part}" for part in parts}
    model, how, told = found(plain, pictures, max_drop=drop / 2, block_names=own_names)
    assert how.float_blocks
    assert {f"their {block}" for block in quantized_blocks(model)} == set(how.costs) - set(
        how.float_blocks
    )
    assert {f"measuring the cost of {name}" for name in how.costs} <= set(told)
    assert how.accuracy.drop <= drop / 2
    ranked = sorted(how.costs, key=lambda block: -how.costs[block])
    assert list(how.float_blocks) == ranked[: len(how.float_blocks)]
    check_rounding(model, plain)


@pytest.mark.slow
def test_pictures_that_look_all_the_same_are_refused(plain, pictures):
    calibration, judging = pictures
    same = dataclasses.replace(judging, paths=judging.paths[:1] * 40)
    with pytest.raises(VerificationError, match=r"int8 cannot be judged. On 40 pictures"):
        found(plain, (calibration, same), max_drop=None)


@pytest.mark.slow
def test_where_nothing_holds_the_drop_it_says_so(plain, pictures):
    with pytest.raises(VerificationError, match="int8 costs this network too much"):
        found(plain, pictures, max_drop=-200.0)


@pytest.mark.parametrize(("batch", "sizes"), [(None, [8, 3]), (4, [4, 4, 4])])
def test_any_number_of_images_runs_in_batches(batch, sizes):
    given = []

    def run(images):
        given.append(len(images))
        return images.mean((2, 3))

    images = noise(11)
    np.testing.assert_array_equal(filled(run, batch)(images), images.mean((2, 3)))
    assert given == sizes
