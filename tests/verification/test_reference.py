import networks
import numpy as np
import pytest
import torch
from networks import SMALL, float64_logits, trained

from levit_deploy.errors import CheckpointError
from levit_deploy.passes import to_plain
from levit_deploy.verification.budget import rms
from levit_deploy.verification.inputs import standard_cases
from levit_deploy.verification.reference import Reference, _twin

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


def test_blocks_are_those_of_a_walk_by_hand():
    images = NORMAL.draw(2)
    blocks = {block.name: block for block in REFERENCE.blocks(images)}
    stem = [f"patch_embed.{i}" for i in (0, 2, 4, 6)]
    trunk = [f"blocks.{i}" for i in range(len(MODEL.blocks))]
    assert list(blocks) == [*stem, *trunk, "head"]

    double = trained().double()
    with torch.inference_mode():
        x = torch.from_numpy(images).double()
        for i, layer in enumerate(double.patch_embed):
            x = layer(x)
            if i % 2 == 0:
                np.testing.assert_array_equal(blocks[f"patch_embed.{i}"].float64, x)
        x = double.to_tokens(x)
        for i, layer in enumerate(double.blocks):
            x = layer(x)
            np.testing.assert_array_equal(blocks[f"blocks.{i}"].float64, x)
            assert blocks[f"blocks.{i}"].own.dtype == np.float32
    np.testing.assert_array_equal(blocks["head"].float64, REFERENCE.logits(images))
    assert not MODEL.blocks[0]._forward_hooks


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

    twin = _twin(REFERENCE._float64, 0, 2.0**-23).float()
    for name, tensor in twin.state_dict().items():
        original = MODEL.state_dict()[name]
        if tensor.is_floating_point():
            step = np.spacing(np.abs(original.numpy()))
            assert (np.abs(tensor.numpy() - original.numpy()) <= step).all()
    moved = (twin.head.l.weight != MODEL.head.l.weight).float().mean()
    assert 0.1 < moved < 0.9


@pytest.mark.parametrize("to", [lambda model: model, to_plain])
def test_with_many_tokens_fewer_images_are_held_at_once(to):
    config = SMALL.replace(image_size=(384, 512))
    model = to(trained(config))
    tokens, heads, images = 24 * 32, config.stages[0].num_heads, networks.images(config, 9).numpy()
    reference, batches = Reference(model), []
    hook = reference._float64.register_forward_pre_hook(lambda _, x: batches.append(len(x[0])))
    logits = reference.logits(images)
    hook.remove()
    assert sum(batches) == 9
    assert max(batches) == 2**26 // (heads * tokens**2 * 8) < 8
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
    blocks = reference.blocks(images)
    assert rms(blocks[-1].own - rounded) < unit / 2
    assert {block.own.dtype for block in blocks} == {np.dtype(np.float32)}

    first, *twins = reference.draws(images, 4)
    assert rms(first - rounded) < unit / 2
    errors = [rms(logits - expected) for logits in (first, *twins)]
    assert len(set(errors)) == 5
    assert all(0.3 < error / errors[0] < 3 for error in errors)
    first_twin = _twin(reference._float64, 0, torch.finfo(dtype).eps)
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
