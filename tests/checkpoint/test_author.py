"""Whether a reading is held to the logits that the author's own code computed."""

import io
import zipfile

import foreign
import networks
import numpy as np
import pytest
import torch

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import CheckpointError, InputError
from levit_deploy.pipeline import fuse

SMALL = networks.SMALL
HEADS = {"class": 0, "distill": 1}


@pytest.fixture
def files(tmp_path):
    def write(config=SMALL, family="official", dtype=np.float32, **arrays):
        """A checkpoint of a family, and the logits that its author computed."""
        model = networks.trained(config)
        state = foreign.FAMILIES[family][0](model, config)
        torch.save(state, tmp_path / "a.pth")
        images = networks.images(config)
        with torch.inference_mode():
            logits = model(images)
        saved = {"input": images.numpy(), "logits": logits.numpy().astype(dtype)} | arrays
        np.savez(tmp_path / "expect.npz", **saved)
        return tmp_path / "a.pth", tmp_path / "expect.npz"

    return write


def heads(model, images):
    """The logits of both heads, as the model returns them in training, but with its statistics."""
    features = model.forward_features(images)
    return model.head(features), model.head_dist(features)


def test_the_authors_logits_confirm_a_reading(files):
    path, expect = files()
    checkpoint = read_checkpoint(path, expect=expect)
    assert checkpoint.proven_if == ()
    assert checkpoint.checked.fits
    assert checkpoint.checked.head == "mean"
    assert checkpoint.checked.images == 3
    assert read_checkpoint(path).checked is None


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_logits_of_another_type_are_held_to_its_precision(files, dtype):
    path, expect = files(dtype=dtype)
    assert read_checkpoint(path, expect=expect).checked.fits


@pytest.mark.parametrize(
    ("family", "changes", "options", "told"),
    [
        ("official", {"activation": "gelu"}, {"activation": "gelu"}, "--activation gelu"),
        ("timm", {"activation": "relu"}, {"activation": "relu"}, "--activation relu"),
        ("official", {"bn_eps": 1e-3}, {"eps": 1e-3}, "--eps 0.001"),
        (
            "official",
            {"activation": "silu", "attention_activation": "hardswish"},
            {"activation": "silu", "trained_with": "timm==0.6.13"},
            "--activation silu --trained-with timm==0.6.13",
        ),
        (
            "vit-pytorch",
            {"activation": "gelu", "bias_over_scale": 0},
            {"trained_with": "vit-pytorch==0.17.0"},
            "--trained-with vit-pytorch==0.15.2",
        ),
        (
            "vit-pytorch",
            {"activation": "gelu", "bias_over_scale": -1},
            {"trained_with": "vit-pytorch==0.18.2"},
            "--trained-with vit-pytorch==0.18.2",
        ),
        (
            "vit-pytorch",
            {"activation": "relu", "bias_over_scale": 0},
            {"trained_with": "vit-pytorch==0.17.0", "activation": "relu"},
            "--trained-with vit-pytorch==0.15.2 --activation relu",
        ),
    ],
)
def test_another_reading_is_refused_and_the_one_that_fits_is_named(
    files, family, changes, options, told
):
    fixed = foreign.FAMILIES[family][1]
    config = SMALL.replace(**{**fixed, **changes})
    path, expect = files(config, family)
    with pytest.raises(CheckpointError, match=r"the RMSE is \d.*allowed") as refused:
        read_checkpoint(path, expect=expect)
    assert f"They fit with {told}. Give that." in str(refused.value)
    assert read_checkpoint(path, expect=expect, **options).checked.fits


def test_logits_of_other_weights_fit_no_reading(files):
    path, expect = files()
    other = networks.float64_logits(networks.trained(seed=5), networks.images())
    np.savez(expect, input=networks.images().numpy(), logits=other)
    with pytest.raises(CheckpointError, match=r"None of \d+ other readings fits"):
        read_checkpoint(path, expect=expect)


@pytest.mark.parametrize("head", HEADS)
def test_the_head_that_gave_the_logits_is_told(files, head):
    path, expect = files()
    images = networks.images()
    with torch.inference_mode():
        logits = heads(networks.trained(), images)[HEADS[head]]
    np.savez(expect, input=images.numpy(), logits=logits.numpy())
    assert read_checkpoint(path, expect=expect).checked.head == head


def test_the_images_tell_the_size_of_a_network_without_indices(files):
    config = SMALL.replace(image_size=(32, 128), stages=SMALL.stages[:1], downsamples=())
    path, expect = files(config, "timm")
    assert read_checkpoint(path).config.image_size == (64, 64)
    assert read_checkpoint(path, expect=expect).config == config


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"logits": np.zeros((2, 7), np.float32)}, "3 images and 2 rows"),
        ({"logits": np.zeros(3, np.float32)}, "logits is float32"),
        ({"input": np.zeros((3, 3, 64, 96), np.uint8)}, "input is uint8"),
        ({"logits": np.full((3, 7), np.nan)}, "NaN"),
        ({"input": np.array([{}], object)}, "allow_pickle"),
    ],
)
def test_a_file_of_anything_else_is_refused(files, arrays, reason):
    path, expect = files(**arrays)
    with pytest.raises(InputError, match=f"--expect .*{reason}.*numpy.savez"):
        read_checkpoint(path, expect=expect)


def npz(member, flags=0, compression=0):
    """An .npz with these bytes as its input, and the archive's fields changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("input.npy", member)
    data = bytearray(buffer.getvalue())
    for place in (6, data.rfind(b"PK\1\2") + 8):
        data[place], data[place + 2] = flags, compression
    return bytes(data)


def claiming(shape):
    return (
        b"\x93NUMPY\x01\x00\x76\x00"
        + f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode()
        + b"\n"
    )


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"not an archive",
        None,
        npz(b"no array"),
        npz(b"x", flags=1),
        npz(b"x", compression=8),
        npz(b"x", compression=99),
        npz(claiming((1 << 50, 1, 1, 1))),
        npz(claiming((1 << 40, 1 << 40, 1, 1))),
        npz(claiming("(((")),
    ],
    ids=range(10),
)
def test_a_file_that_is_no_npz_is_refused(files, tmp_path, contents):
    path, _ = files()
    if contents is not None:
        (tmp_path / "b.npz").write_bytes(contents)
    with pytest.raises(InputError, match="--expect"):
        read_checkpoint(path, expect=tmp_path / "b.npz")


def test_images_of_another_size_are_refused_as_such_for_a_fused_file(files, tmp_path):
    path, expect = files(input=np.zeros((3, 3, 64, 64), np.float32))
    fuse(path, tmp_path / "a.fused.safetensors")
    with pytest.raises(CheckpointError, match=r"images of the shape \(3, 64, 64\)"):
        read_checkpoint(tmp_path / "a.fused.safetensors", expect=expect)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"logits": np.zeros((3, 8), np.float32)}, r"logits of the shape \(8,\).*\(7,\)"),
        ({"input": np.zeros((3, 1, 64, 96), np.float32)}, r"images of the shape \(1, 64, 96\)"),
    ],
)
def test_logits_of_another_network_are_refused(files, arrays, reason):
    path, expect = files(**arrays)
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(path, expect=expect)


def test_arrays_at_hand_are_taken(files):
    path, _ = files()
    images = networks.images()
    logits = networks.float64_logits(networks.trained(), images)
    expect = {"input": images, "logits": logits}
    assert read_checkpoint(path, expect=expect).checked.fits
    for wrong in ({"input": images}, {"input": images, "logits": logits[:2]}):
        with pytest.raises(InputError, match="expect= holds no"):
            read_checkpoint(path, expect=wrong)


def test_a_missing_array_is_named(files, tmp_path):
    path, _ = files()
    np.savez(tmp_path / "b.npz", input=networks.images().numpy())
    with pytest.raises(InputError, match="it has no logits"):
        read_checkpoint(path, expect=tmp_path / "b.npz")
