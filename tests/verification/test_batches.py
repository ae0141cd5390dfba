import numpy as np
import pytest
import torch
from networks import SMALL, trained

from levit_deploy.errors import VerificationError
from levit_deploy.passes import to_plain
from levit_deploy.verification.batches import compare_batches
from levit_deploy.verification.compare import compare_case
from levit_deploy.verification.inputs import standard_cases
from levit_deploy.verification.reference import Reference

MODEL = trained()
PLAIN = to_plain(MODEL)
REFERENCE = Reference(MODEL)
CASES = standard_cases(SMALL, seed=0)


def plain_run(images):
    with torch.inference_mode():
        return PLAIN(torch.from_numpy(images)).numpy()


def off_by(wrong):
    """A runner whose logits a function has changed, given the images."""
    return lambda images: wrong(plain_run(images), images).astype(np.float32)


def batch_failures(wrong, fixed_batch=None):
    run = off_by(wrong)
    alone = [compare_case(case, REFERENCE, run, fixed_batch) for case in CASES]
    batches = compare_batches(alone, REFERENCE, run, fixed_batch, seed=0)
    return {batch.result.size: " ".join(batch.result.failures) for batch in batches}


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8, 17])
def test_logits_that_depend_on_the_size_of_the_batch_fail(size):
    found = batch_failures(lambda y, images: y + 1e-3 * (len(images) == size))
    assert [wrong for wrong, text in found.items() if text] == [size]
    assert "the images beside it" in found[size]


@pytest.mark.parametrize("place", range(17))
def test_every_place_in_a_batch_counts(place):
    def poisoned(y, images):
        y[place:, 0][: len(images) == 17] = np.nan
        return y

    assert batch_failures(poisoned)[17] == "NaN or infinite outputs"


def test_images_that_leak_into_each_other_fail():
    leaks = batch_failures(lambda y, _: y + 1e-3 * (y.mean(axis=0) - y))
    assert all("the images beside it" in leaks[size] for size in (5, 7, 17))
    assert set(batch_failures(lambda y, _: y).values()) == {""}


def test_an_image_on_which_the_original_wavers_may_change_with_the_batch():
    """Half of the original's twins give it other logits, as behind a tie in its attention."""

    class Wavering(Reference):
        def draws(self, images, twins):
            for i, draw in enumerate(super().draws(images, twins)):
                yield draw + 2e-4 * (i % 2)

    def run(images):
        return plain_run(images) + np.float32(2e-4 * (len(images) == 7))

    alone = [compare_case(case, REFERENCE, plain_run, None) for case in CASES]
    for reference, passes in ((REFERENCE, False), (Wavering(MODEL), True)):
        batches = compare_batches(alone, reference, run, None, seed=0)
        assert any(batch.result.failures for batch in batches) != passes


@pytest.mark.slow
def test_logits_that_depend_on_the_place_in_a_fixed_batch_fail():
    def by_place(y, images):
        assert len(images) == 4
        return y + 1e-3 * np.arange(4)[:, None]

    assert "the images beside it" in batch_failures(by_place, fixed_batch=4)[4]
    assert batch_failures(lambda y, _: y, fixed_batch=4) == {4: ""}
    assert compare_case(CASES[0], REFERENCE, plain_run, 4).result.failures == ()


@pytest.mark.parametrize(
    "wrong", [lambda y: np.concatenate([y, y]), lambda y: y[None], lambda y: y[:0], lambda y: y[:1]]
)
def test_another_number_of_rows_in_a_batch_is_no_proof(wrong):
    alone = [compare_case(case, REFERENCE, plain_run, None) for case in CASES]
    with pytest.raises(VerificationError, match="Each image must have one row"):
        compare_batches(alone, REFERENCE, lambda x: wrong(plain_run(x)), None, seed=0)
