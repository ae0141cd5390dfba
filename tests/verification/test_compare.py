import copy
import math

import numpy as np
import pytest
import torch
from networks import SMALL, trained

from levit_deploy.errors import CheckpointError, VerificationError
from levit_deploy.passes import to_plain
from levit_deploy.verification.compare import (
    BEYOND_CHANCE,
    ERROR_EDGES,
    compare_case,
    look_inside,
)
from levit_deploy.verification.inputs import Case, image_case, standard_cases
from levit_deploy.verification.reference import Reference

MODEL = trained()
PLAIN = to_plain(MODEL)
REFERENCE = Reference(MODEL)
CASES = standard_cases(SMALL, seed=0)
NORMAL = CASES[0]


def plain_run(images):
    with torch.inference_mode():
        return PLAIN(torch.from_numpy(images)).numpy()


def off_by(wrong):
    """A runner whose logits a function has changed, given the images."""
    return lambda images: wrong(plain_run(images), images).astype(np.float32)


def compare(run, case=NORMAL, fixed_batch=None):
    return compare_case(case, REFERENCE, run, fixed_batch).result


def failures(wrong, case=NORMAL, fixed_batch=None):
    return " ".join(compare(off_by(wrong), case, fixed_batch).failures)


def test_the_figures_are_those_of_a_calculation_by_hand():
    compared = compare_case(NORMAL, REFERENCE, plain_run, None)
    result, images = compared.result, NORMAL.draw(8)
    expected = REFERENCE.logits(images)
    singly = np.concatenate([plain_run(image[None]) for image in images])
    assert result.images == 8
    assert result.failures == ()
    assert result.finite
    error = singly - expected
    assert result.rmse == np.sqrt((error**2).mean())
    assert result.max_error == np.abs(error).max()
    assert compared.worst == np.abs(error).max(axis=1).argmax()
    assert np.array_equal(compared.logits, singly)
    unit = max(result.rmse / result.budget.rmse, result.max_error / result.budget.max_error)
    assert result.excess == unit < 1
    margins = np.sort(expected, axis=1)
    assert result.decided == (margins[:, -1] - margins[:, -2] > 2 * result.budget.max_error).sum()
    times = np.abs(error) / result.budget.max_error
    places = np.floor(4 * np.log10(times)).astype(int) + 20  # four to a decade, from 1e-5
    assert result.histogram == tuple(np.bincount(places.clip(0).flat, minlength=28))
    assert len(result.histogram) == len(ERROR_EDGES) - 1


def test_every_logit_is_in_the_histogram_however_wrong():
    def wrong(found, _):
        found[0, :3] = np.nan, np.inf, -np.inf
        found[0, 3] += 1e6
        return found

    histogram = compare(off_by(wrong)).histogram
    assert sum(histogram) == 8 * 7
    assert histogram[-1] == 4 * 8  # each image is run alone, and so the first of its batch


@pytest.mark.slow
def test_a_bias_of_a_few_units_is_too_much():
    unit = compare(plain_run).budget.rmse
    assert failures(lambda y, _: y + 0.2 * unit) == ""
    assert "RMSE" in failures(lambda y, _: y + 3 * unit)


@pytest.mark.slow
def test_one_wrong_logit_is_found_by_its_largest_error():
    largest = compare(plain_run).budget.max_error

    def spike(y, images):
        y[np.abs(images).max(axis=(1, 2, 3)).argmax(), 2] += 3 * largest
        return y

    assert "error" in failures(spike)


def test_nan_and_infinity_fail():
    assert failures(lambda y, _: y * np.nan) == "NaN or infinite outputs"
    assert failures(lambda y, _: np.full_like(y, np.inf)) == "NaN or infinite outputs"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_nan_or_infinity_has_no_top1_to_agree_with(value):
    def wrong(found, _):
        found[np.arange(len(found)), found.argmax(axis=1)] = value  # argmax finds the same place
        return found

    result = compare(off_by(wrong))
    assert result.disagreements == result.decided > 0


def test_another_top1_on_a_decided_image_fails():
    result = compare(off_by(lambda y, _: y[:, ::-1]))
    assert result.disagreements == result.decided == result.images
    assert any("another top-1" in failure for failure in result.failures)


def test_an_image_too_close_to_call_may_change_its_top1():
    images = NORMAL.draw(1)
    expected = REFERENCE.logits(images)[0]
    first, second = np.argsort(expected)[[-1, -2]]
    margin = expected[first] - expected[second]

    class CloseCall:
        precision = "fp32"

        def logits(self, x):
            y = REFERENCE.logits(x).copy()
            y[:, second] += margin - 1e-9
            return y

        def draws(self, x, _twins):
            yield self.logits(x).astype(np.float32)

    def swapped(x):
        y = CloseCall().logits(x)
        y[:, [first, second]] = y[:, [second, first]]
        return y.astype(np.float32)

    result = compare_case(image_case("close", images), CloseCall(), swapped, None).result
    assert result.decided == 0
    assert result.failures == ()


def test_more_images_settle_what_a_few_leave_open():
    drawn = []

    def draw(n):
        drawn.append(n)
        return NORMAL.draw(n)

    right = compare(plain_run, Case("c", draw, (2, 4, 8)))
    assert right.failures == ()
    assert drawn[-1] == right.images


def test_no_more_twins_are_drawn_than_show_that_it_passes():
    drawn = []

    class Steps:
        """Each draw is another step of 4 ulps off."""

        precision, step = "fp32", 2.0**-21 * np.abs(REFERENCE.logits(NORMAL.draw(4))).max()

        def logits(self, x):
            return REFERENCE.logits(x)

        def draws(self, x, twins):
            for k in range(1 + twins):
                drawn.append(len(x))
                yield self.logits(x) + k * self.step

    reference = Steps()

    def off(x):
        return reference.logits(x) + 5 * reference.step

    result = compare_case(Case("c", NORMAL.draw, (2, 4)), reference, off, None).result
    assert result.failures == ()
    assert drawn == [2, *[4] * 4]  # the third twin allows 2 * 3 steps
    assert result.budget.rmse == pytest.approx(6 * reference.step)


@pytest.mark.slow
def test_a_slightly_wrong_artifact_fails_on_the_last_number_of_images():
    drawn = []

    def draw(n):
        drawn.append(n)
        return NORMAL.draw(n)

    unit = compare(plain_run).budget.rmse
    wrong = off_by(lambda y, _: y + 5 * unit)
    assert compare(wrong, Case("c", draw, (2, 4, 8))).failures
    assert drawn == [2, 4, 8]


def test_an_error_that_no_chance_explains_fails_at_once():
    result = compare(off_by(lambda y, _: y * 1.01))
    assert result.failures
    assert result.images == NORMAL.sizes[0]


@pytest.mark.parametrize(("beyond_chance", "looks"), [(BEYOND_CHANCE, 1), (math.inf, 3)])
def test_what_is_far_off_is_looked_at_again_if_it_is_asked_for(beyond_chance, looks):
    drawn = []

    def draw(n):
        drawn.append(n)
        return NORMAL.draw(n)

    def off(x):
        return plain_run(x) + 1

    result = compare_case(
        Case("c", draw, (2, 4, 8)), REFERENCE, off, None, beyond_chance=beyond_chance
    ).result
    assert result.failures
    assert len(drawn) == looks


@pytest.mark.parametrize("wrong_rows", [slice(0, 4), slice(56, 60)])
def test_every_row_of_a_large_fixed_batch_counts(wrong_rows):
    def poisoned(y, _images):
        y[wrong_rows] = np.nan
        return y

    for case in CASES:
        assert failures(poisoned, case, fixed_batch=64) == "NaN or infinite outputs"


def test_a_checkpoint_that_overflows_proves_nothing():
    model = trained()
    with torch.no_grad():
        model.head.l.weight.fill_(3e38)
    with pytest.raises(CheckpointError, match="the checkpoint itself"):
        compare_case(NORMAL, Reference(model), plain_run, None)


WRONG_ROWS = {
    "twice": lambda y: np.concatenate([y, y]),
    "one more": lambda y: np.concatenate([y, y[:1]]),
    "none": lambda y: y[:0],
    "in a row": lambda y: y[None],
    "flat": lambda y: y.reshape(-1),
}


@pytest.mark.parametrize("wrong", WRONG_ROWS.values(), ids=WRONG_ROWS)
@pytest.mark.parametrize("fixed_batch", [None, 4])
def test_another_number_of_rows_is_no_proof(wrong, fixed_batch):
    with pytest.raises(VerificationError, match=r"a batch of \d has outputs of shape"):
        compare(lambda x: wrong(plain_run(x)), fixed_batch=fixed_batch)


def test_another_number_of_classes_is_no_proof():
    with pytest.raises(VerificationError, match="another network"):
        compare_case(NORMAL, REFERENCE, lambda x: plain_run(x)[:, :1], None)


# --- reduced precision ----------------------------------------------------------------------------

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def reduced_run(precision, plain=PLAIN):
    dtype = DTYPES[precision]
    reduced = copy.deepcopy(plain).to(dtype)

    def run(images):
        with torch.inference_mode():
            return reduced(torch.from_numpy(images).to(dtype)).float().numpy()

    return run


@pytest.mark.parametrize("precision", DTYPES)
def test_each_precision_has_its_own_budget(precision):
    reference, run = Reference(MODEL, precision), reduced_run(precision)
    for case in CASES:
        compared = compare_case(case, reference, run, None)
        assert compared.result.failures == ()
        step = torch.finfo(DTYPES[precision]).eps * np.abs(reference.logits(compared.images)).max()
        assert compared.result.budget.rmse >= 2 * step
        # and a float32 artifact would have been refused for it
        assert compare(run, case).failures
    once = Case("normal", NORMAL.draw, (8,))
    coarse = reduced_run("bf16")
    assert compare_case(once, Reference(MODEL, "fp16"), coarse, None).result.failures


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("block", ["patch_embed.2", "blocks.9"])
def test_a_wrong_layer_is_above_the_budget_of_reduced_precision(precision, block):
    model = trained()
    weight = next(p for p in model.get_submodule(block).parameters() if p.dim() > 1)
    weight.data = weight.data.flip(0)
    run, once = reduced_run(precision, to_plain(model)), Case("normal", NORMAL.draw, (8,))
    assert compare_case(once, Reference(MODEL, precision), run, None).result.failures


def loud(times):
    """An original whose scores overflow float16 on images that are not quiet."""
    model = trained()
    with torch.no_grad():
        rows = model.blocks[0].m.qkv.bn
        rows.weight *= times
        rows.bias *= times
    return model


def test_large_inputs_that_overflow_float16_are_scaled_down():
    large, model = CASES[4], loud(20)
    run = reduced_run("fp16", to_plain(model))
    reference = Reference(model, "fp16")
    assert not np.isfinite(reference.own_logits(large.draw(4))).all()
    compared = compare_case(large, reference, run, None)
    assert compared.result.name == "large x2.5"
    assert np.array_equal(compared.images, large.draw(4) / 4)
    assert np.isfinite(reference.own_logits(compared.images)).all()
    assert not np.isfinite(reference.own_logits(compared.images * 2)).all()


def test_overflow_in_float16_on_ordinary_images_proves_nothing():
    model = loud(3000)
    for case in (NORMAL, CASES[4]):
        with pytest.raises(
            CheckpointError, match=r"infinity in float16.*--precision fp32, or bf16"
        ):
            compare_case(case, Reference(model, "fp16"), plain_run, None)
    assert np.isfinite(Reference(model, "bf16").own_logits(NORMAL.draw(4))).all()


def test_what_overflows_inside_fails_though_the_logits_are_right():
    compared = compare_case(NORMAL, REFERENCE, plain_run, None)
    given = []

    def values(images, wrong=np.inf):
        given.append(images)
        yield np.ones((len(images), 3), np.float32)
        yield np.full((len(images), 2), wrong, np.float32)
        given.append("the end")

    (failure,) = look_inside(compared, values, None).result.failures
    assert "infinity inside" in failure
    assert np.array_equal(given[0], compared.images[:4])
    assert given[1] == "the end"  # or a child's next answer would be taken for another one
    assert look_inside(compared, lambda images: values(images, 65504), None) == compared
    look_inside(compared, values, 11)
    assert np.array_equal(given[-2], compared.images[np.arange(11) % 8])
