import numpy as np
import pytest
import torch
from networks import SMALL, trained

from levit_deploy.errors import CheckpointError, VerificationError
from levit_deploy.passes import to_plain
from levit_deploy.verification.compare import Reference, compare_case
from levit_deploy.verification.inputs import Case, image_case, standard_cases

MODEL = trained()
PLAIN = to_plain(MODEL)
REFERENCE = Reference(MODEL)
NORMAL = standard_cases(SMALL, seed=0)[0]


def plain_run(images):
    with torch.inference_mode():
        return PLAIN(torch.from_numpy(images)).numpy()


def off_by(wrong):
    """A runner whose logits a function has changed, given the images."""
    return lambda images: wrong(plain_run(images), images).astype(np.float32)


def failures(wrong, case=NORMAL, fixed_batch=None):
    return " ".join(compare_case(case, REFERENCE, off_by(wrong), fixed_batch).failures)


def test_the_reference_runs_in_float64_and_leaves_the_model_in_float32():
    images = NORMAL.draw(20)  # more than one chunk
    logits = REFERENCE.logits(images)
    assert logits.dtype == np.float64
    assert logits.shape == (20, SMALL.num_classes)
    assert MODEL.head.l.weight.dtype == torch.float32
    with torch.inference_mode():
        one = trained().double()(torch.from_numpy(images[17:18]).double()).numpy()
    np.testing.assert_allclose(logits[17:18], one, rtol=1e-13)


def test_the_figures_are_those_of_a_calculation_by_hand():
    result = compare_case(NORMAL, REFERENCE, off_by(lambda y, _: y), None)
    images = NORMAL.draw(8)
    expected = REFERENCE.logits(images)
    singly = np.concatenate([plain_run(image[None]) for image in images])
    in_threes = np.concatenate([plain_run(images[i : i + 3]) for i in (0, 3)])
    assert result.images == 8
    assert result.failures == ()
    assert result.finite
    assert result.max_error >= np.abs(singly - expected).max()
    assert result.max_error >= np.abs(in_threes - expected[:6]).max()
    assert result.row_difference >= np.abs(in_threes - singly[:6]).max()
    margins = np.sort(expected, axis=1)
    assert result.decided == (margins[:, -1] - margins[:, -2] > 2 * result.budget.max_error).sum()


def test_a_bias_of_a_few_units_is_too_much():
    unit = compare_case(NORMAL, REFERENCE, off_by(lambda y, _: y), None).budget.rmse
    assert failures(lambda y, _: y + 0.2 * unit) == ""
    assert "RMSE" in failures(lambda y, _: y + 3 * unit)


def test_one_wrong_logit_is_found_by_its_largest_error():
    largest = compare_case(NORMAL, REFERENCE, off_by(lambda y, _: y), None).budget.max_error

    def spike(y, images):
        y[np.abs(images).max(axis=(1, 2, 3)).argmax(), 2] += 3 * largest
        return y

    assert "error" in failures(spike)


def test_nan_and_infinity_fail():
    assert failures(lambda y, _: y * np.nan) == "NaN or infinite logits"
    assert failures(lambda y, _: np.full_like(y, np.inf)) == "NaN or infinite logits"


def test_logits_that_depend_on_the_rest_of_the_batch_fail():
    wrong = failures(lambda y, images: y + 1e-3 * (len(images) == 3))
    assert "with its batch" in wrong


def test_logits_that_depend_on_the_place_in_a_fixed_batch_fail():
    def by_place(y, images):
        assert len(images) == 4
        return y + 1e-3 * np.arange(4)[:, None]

    assert "with its batch" in failures(by_place, fixed_batch=4)
    assert failures(lambda y, _: y, fixed_batch=4) == ""


def test_another_top1_on_a_decided_image_fails():
    result = compare_case(NORMAL, REFERENCE, off_by(lambda y, _: y[:, ::-1]), None)
    assert result.disagreements == result.decided == result.images
    assert any("another top-1" in failure for failure in result.failures)


def test_an_image_too_close_to_call_may_change_its_top1():
    images = NORMAL.draw(1)
    expected = REFERENCE.logits(images)[0]
    first, second = np.argsort(expected)[[-1, -2]]
    margin = expected[first] - expected[second]

    class CloseCall:
        def logits(self, x):
            y = REFERENCE.logits(x)
            y[:, second] += margin - 1e-9
            return y

        def float32_logits(self, x):
            return self.logits(x).astype(np.float32)

    def swapped(x):
        y = CloseCall().logits(x)
        y[:, [first, second]] = y[:, [second, first]]
        return y.astype(np.float32)

    result = compare_case(image_case("close", images), CloseCall(), swapped, None)
    assert result.decided == 0
    assert result.failures == ()


def test_more_images_settle_what_a_few_leave_open():
    drawn = []

    def draw(n):
        drawn.append(n)
        return NORMAL.draw(n)

    right = compare_case(Case("c", draw, (2, 4, 8)), REFERENCE, plain_run, None)
    assert right.failures == ()
    assert drawn[-1] == right.images


def test_a_slightly_wrong_artifact_fails_on_the_last_number_of_images():
    drawn = []

    def draw(n):
        drawn.append(n)
        return NORMAL.draw(n)

    unit = compare_case(NORMAL, REFERENCE, plain_run, None).budget.rmse
    wrong = off_by(lambda y, _: y + 5 * unit)
    assert compare_case(Case("c", draw, (2, 4, 8)), REFERENCE, wrong, None).failures
    assert drawn == [2, 4, 8]


def test_an_error_that_no_chance_explains_fails_at_once():
    result = compare_case(NORMAL, REFERENCE, off_by(lambda y, _: y * 1.01), None)
    assert result.failures
    assert result.images == NORMAL.sizes[0]


@pytest.mark.parametrize("wrong_rows", [slice(0, 4), slice(56, 60)])
def test_every_row_of_a_large_fixed_batch_counts(wrong_rows):
    def poisoned(y, _images):
        y[wrong_rows] = np.nan
        return y

    for case in standard_cases(SMALL, seed=0):
        assert failures(poisoned, case, fixed_batch=64) == "NaN or infinite logits"


def test_every_row_of_a_batch_that_was_filled_up_counts():
    def first_rows(y, images):
        if len(images) == 8:
            y[:4] += 1
        return y

    for case in standard_cases(SMALL, seed=0):
        assert "RMSE" in failures(first_rows, case)


def test_a_checkpoint_that_overflows_proves_nothing():
    model = trained()
    with torch.no_grad():
        model.head.l.weight.fill_(3e38)
    with pytest.raises(CheckpointError, match="the checkpoint itself"):
        compare_case(NORMAL, Reference(model), plain_run, None)


def test_another_number_of_classes_is_no_proof():
    with pytest.raises(VerificationError, match="another network"):
        compare_case(NORMAL, REFERENCE, lambda x: plain_run(x)[:, :1], None)
