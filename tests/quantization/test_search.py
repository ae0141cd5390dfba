import dataclasses

import numpy as np
import pytest
from float_graphs import centred, int8_form, save_pictures
from networks import SHALLOW
from prepared import transform_of

from levit_deploy.errors import VerificationError
from levit_deploy.pictures.split import split_pictures
from levit_deploy.quantization.calibration import METHODS
from levit_deploy.quantization.search import block_of, search
from levit_deploy.runtime.sessions import runner
from levit_deploy.targets.onnx_int8_check import check_rounding

CONFIG = SHALLOW.replace(image_size=(32, 32))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = save_pictures(tmp_path_factory.mktemp("pictures"), CONFIG.num_classes, each=8)
    calibration, judging = split_pictures(folder, transform_of(CONFIG), CONFIG.num_classes)
    return calibration, dataclasses.replace(judging, labels=None)  # a random network is never right


@pytest.fixture(scope="module")
def form():
    return int8_form(CONFIG, model=centred(CONFIG))


@pytest.fixture(scope="module")
def drop(form, pictures):
    """How many points int8 costs if no layer is left in float."""
    return found(form, pictures)[1].accuracy.drop


def found(form, pictures, **options):
    told = []
    options = {"cpu": "any", "max_drop": 50.0, "confident": False, "block_names": {}, **options}
    return *search(form, *pictures, progress=told.append, **options), told


def rounded_parts(model):
    names = {tensor.name for tensor in model.graph.initializer}
    return {name.removesuffix(".weight_quantized") for name in names if "weight_quantized" in name}


def test_the_block_of_a_layer():
    parts = ("patch_embed.2", "blocks.12.m.qkv.q", "blocks.5.attention", "head")
    assert [block_of(part) for part in parts] == ["patch_embed.2", "blocks.12", "blocks.5", "head"]


@pytest.mark.slow
def test_the_method_with_the_least_error_is_taken(form, pictures):
    model, how, told = found(form, pictures)
    assert how.errors.keys() > set(METHODS)
    nearest = min(METHODS, key=lambda method: how.errors[method])
    assert how.errors.keys() - set(METHODS) == {f"{nearest} and least squares"}
    assert how.errors[how.method] == min(how.errors.values())
    calibration = pictures[0]
    plain = form.unrounded()
    expected, got = (runner(m.SerializeToString(), None)(calibration) for m in (plain, model))
    measured = np.sqrt(np.mean((got - expected).astype(float) ** 2)) / expected.std()
    assert how.errors[how.method] == pytest.approx(measured, rel=1e-4)
    assert how.left_in_float == ()
    assert how.calibrated_on == len(calibration)
    assert how.costs == {}  # nothing has to stay float
    assert len(told) >= len(METHODS) + 2
    check_rounding(model, plain)


@pytest.mark.slow
def test_layers_are_left_in_float_in_the_order_of_what_they_cost(form, pictures, drop):
    assert drop > 1
    blocks = dict.fromkeys(block_of(part) for part in form.places().parts)
    own_names = {block: f"their {block}" for block in blocks}
    model, how, told = found(form, pictures, max_drop=drop / 2, block_names=own_names)
    assert how.left_in_float
    assert how.accuracy.drop <= drop / 2
    assert how.costs.keys() == set(own_names.values())
    assert all(0 < cost < how.errors[how.method] * 3 for cost in how.costs.values())
    assert {f"measuring the cost of {name}" for name in how.costs} <= set(told)
    # told by the block's own name, and then the layer
    floats = {name.split(", ")[0] for name in how.left_in_float}
    assert floats <= how.costs.keys()
    ranked = sorted(how.costs, key=lambda block: -how.costs[block])
    assert ranked[0] in floats
    check_rounding(model, form.unrounded())
    # as said, and no layer more
    parts = set(form.places().parts)
    with_weights = {part for part in parts if not part.endswith(".attention")}
    in_float = with_weights - rounded_parts(model)
    said = [name.removeprefix("their ").replace(", ", ".") for name in how.left_in_float]
    shortened = {part: part.replace(".m.", ".") for part in with_weights}
    assert in_float == {
        part
        for part in with_weights
        if any(f"{shortened[part]}.".startswith(f"{s}.") for s in said)
    }


@pytest.mark.slow
def test_a_layer_alone_goes_back_to_float_if_that_is_enough(form, pictures, drop):
    """More of the network stays int8 than with whole blocks."""
    how = found(form, pictures, max_drop=drop / 2)[1]
    assert any(", " in name for name in how.left_in_float)


@pytest.mark.slow
def test_pictures_that_look_all_the_same_are_refused(form, pictures):
    calibration, judging = pictures
    same = dataclasses.replace(judging, paths=judging.paths[:1] * 40)
    with pytest.raises(VerificationError, match=r"int8 cannot be judged. On 40 pictures"):
        found(form, (calibration, same), max_drop=None)


@pytest.mark.slow
def test_where_nothing_holds_the_drop_it_says_so(form, pictures):
    with pytest.raises(VerificationError, match="int8 costs this network too much"):
        found(form, pictures, max_drop=-200.0)
