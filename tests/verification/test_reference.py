import itertools
import threading
import time

import networks
import numpy as np
import pytest
import torch
from networks import SMALL, float64_logits, trained

from levit_deploy.errors import CheckpointError
from levit_deploy.passes import to_plain
from levit_deploy.verification import reference as reference_module
from levit_deploy.verification.budget import rms
from levit_deploy.verification.inputs import standard_cases
from levit_deploy.verification.reference import Reference, _in_precision, twin_of

MODEL = trained()
REFERENCE = Reference(MODEL)
NORMAL = standard_cases(SMALL, seed=0)[0]


def test_the_reference_runs_in_float64_and_leaves_the_model_in_float32():
    images = NORMAL.draw(20)  # more than one chunk
    logits = REFERENCE.logits(images)
    assert logits.dtype == np.float64
    assert logits.shape == (20, SMALL.num_classes)
    assert MODEL.head.l.weight.dtype == torch.float32
    with torch.inference_mode():
        one = trained().double()(torch.from_numpy(images[17:18]).double()).numpy()
    np.testing.assert_allclose(logits[17:18], one, rtol=1e-13)


def same(actual, expected):
    """The same in float64; a copy of a weight may lie in memory so that torch adds otherwise."""
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_draws_are_the_original_and_twins_a_step_away():
    images = NORMAL.draw(8)
    expected = REFERENCE.logits(images)
    first, *twins = REFERENCE.draws(images, 8)
    np.testing.assert_array_equal(first, REFERENCE.own_logits(images))
    assert len(twins) == 8
    errors = [np.sqrt(((logits - expected) ** 2).mean()) for logits in (first, *twins)]
    assert len(set(errors)) == 9
    assert all(0.3 < error / errors[0] < 3 for error in errors)
    assert all(logits.dtype == np.float32 for logits in twins)

    twin = twin_of(trained().double(), 0, 2.0**-23).float()
    for name, tensor in twin.state_dict().items():
        original = MODEL.state_dict()[name]
        if tensor.is_floating_point():
            step = np.spacing(np.abs(original.numpy()))
            assert (np.abs(tensor.numpy() - original.numpy()) <= step).all()
    moved = (twin.head.l.weight != MODEL.head.l.weight).float().mean()
    assert 0.1 < moved < 0.9


@pytest.mark.parametrize("to", [lambda model: model, to_plain])
def test_with_many_tokens_fewer_images_are_held_at_once(to):
    config = SMALL.replace(image_size=(512, 512), stages=SMALL.stages[:1], downsamples=())
    model = to(trained(config))
    tokens, heads, images = 32 * 32, config.stages[0].num_heads, networks.images(config, 9).numpy()
    reference, batches = Reference(model), []
    block = reference._float64.blocks[0].part
    block.register_forward_pre_hook(lambda _, x: batches.append(len(x[0])))
    logits = reference.logits(images)
    assert sum(batches) == 9
    assert max(batches) == 2**26 // (heads * tokens**2 * 8) < 4
    np.testing.assert_allclose(logits, float64_logits(model, torch.from_numpy(images)), rtol=1e-9)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_the_unit_is_the_original_run_as_its_author_would(precision, dtype):
    reference, images = Reference(MODEL, precision), NORMAL.draw(8)
    with torch.inference_mode():
        rounded = trained().to(dtype)(torch.from_numpy(images).to(dtype)).float().numpy()
    expected = REFERENCE.logits(images)
    np.testing.assert_array_equal(reference.logits(images), expected)
    # torch's float16 adds up in another order where memory is aligned otherwise
    off, unit = rms(reference.own_logits(images) - rounded), rms(rounded - expected)
    assert off < unit / 2
    assert 0.2 < unit / torch.finfo(dtype).eps / np.abs(expected).max() < 5
    assert {p.dtype for p in MODEL.parameters()} == {torch.float32}

    first, *twins = reference.draws(images, 4)
    assert rms(first - rounded) < unit / 2
    errors = [rms(logits - expected) for logits in (first, *twins)]
    assert len(set(errors)) == 5
    assert all(0.3 < error / errors[0] < 3 for error in errors)
    first_twin = twin_of(trained().double(), 0, torch.finfo(dtype).eps)
    with torch.inference_mode():
        x = torch.from_numpy(images)
        exact = first_twin(x.double()).numpy()
        off = first_twin.to(dtype)(x.to(dtype)).float().numpy() - exact
    # it is held against itself, not against the original, whose weights it has not
    assert rms(twins[0] - expected - off) < unit / 2
    twin = first_twin.head.l.weight
    own = MODEL.head.l.weight.to(dtype)
    up, down = (torch.nextafter(own, torch.tensor(end, dtype=dtype)) for end in (9.0, -9.0))
    assert ((twin >= down) & (twin <= up)).all()
    assert 0.1 < (twin != own).float().mean() < 0.9


def test_weights_beyond_float16_are_refused_by_name_and_fit_bfloat16():
    model = trained()
    model.blocks[1].m[0].bn.running_var[3] = 1e5  # float16 would divide by infinity: finite logits
    with pytest.raises(CheckpointError, match=r"blocks\.1\.m\.0\.bn\.running_var .*float16.*bf16"):
        Reference(model, "fp16")
    Reference(model, "bf16")


def test_the_weights_of_float64_are_held_one_part_at_a_time():
    network = _in_precision(MODEL, torch.float64, 4, threading.Event())
    held = {tensor.data_ptr() for tensor in MODEL.parameters()}
    own = [t for t in (*network.parameters(), *network.buffers()) if t.dtype == torch.float64]
    assert {t.data_ptr() for t in network.parameters()} <= held
    tables = [m.attention_bias() for m in MODEL.modules() if hasattr(m, "attention_bias")]
    assert len(own) == len(tables) == 6  # of the attentions, gathered once
    for table, gathered in zip(tables, own, strict=True):
        assert torch.equal(gathered, table.double())
    assert not [t for t in MODEL.parameters() if t.dtype == torch.float64]


def test_a_thread_answers_ahead_and_each_image_is_computed_once(monkeypatch):
    reference, several, ran = Reference(MODEL), [NORMAL.draw(n) for n in (2, 3, 4)], []
    answers, done = Reference._answers, threading.Event()

    def noted(self, model, dtype, images):
        ran.append((threading.current_thread() is threading.main_thread(), dtype, len(images)))
        return answers(self, model, dtype, images)

    def groups():
        yield several[:2]
        yield several
        done.set()

    monkeypatch.setattr(Reference, "_answers", noted)
    with reference.ahead(groups()):
        assert done.wait(60)
        found = [(reference.logits(x), reference.own_logits(x)) for x in several]
    assert ran == [(False, d, n) for n in (5, 4) for d in (torch.float64, torch.float32)]
    for x, (double, own) in zip(several, found, strict=True):
        same(double, REFERENCE.logits(x))
        assert rms(own - double) < 1e-5 * rms(double)


def test_an_answer_that_fails_ahead_fails_again_for_who_asks(monkeypatch):
    reference, images = Reference(MODEL), NORMAL.draw(2)
    failures = iter([MemoryError("none left"), ValueError("odd")])

    def failing(*_):
        raise next(failures)

    monkeypatch.setattr(reference_module, "_run", failing)
    with reference.ahead(()):
        pass
    with pytest.raises(MemoryError):
        reference.logits(images)
    with pytest.raises(ValueError, match="odd"):  # it is not kept
        reference.logits(images)
    monkeypatch.undo()
    same(reference.logits(images), REFERENCE.logits(images))


def test_an_interrupt_of_an_answer_that_the_thread_waits_for_is_not_printed(monkeypatch):
    """Python would print it, and for pytest that is an error."""
    reference, images, asked = Reference(MODEL), NORMAL.draw(2), threading.Event()

    def several():
        asked.wait(60)
        yield [images]

    def interrupted(*_):
        asked.set()
        time.sleep(0.2)  # the thread waits for this answer by now
        raise KeyboardInterrupt

    monkeypatch.setattr(reference_module, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt), reference.ahead(several()):
        reference.logits(images)


def test_the_thread_stops_with_its_block():
    reference, drawn = Reference(MODEL), []

    def without_end():
        for seed in itertools.count():
            drawn.append(seed)
            yield [standard_cases(SMALL, seed)[0].draw(1)]

    with pytest.raises(KeyboardInterrupt), reference.ahead(without_end()):
        raise KeyboardInterrupt
    count = len(drawn)
    time.sleep(0.2)
    assert len(drawn) == count
