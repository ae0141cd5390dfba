import hashlib

import networks
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from levit_deploy.checkpoint import fused, read_checkpoint
from levit_deploy.errors import CheckpointError, UnsafeInputError, UsageError
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance

SMALL = networks.SMALL


@pytest.fixture
def fused_path(tmp_path):
    path = tmp_path / "fused.safetensors"
    plain = to_plain(networks.trained())
    path.write_bytes(fused.serialize(plain, Provenance("ab", SMALL, "mean", "tokens")))
    return path


def saved(tmp_path, contents):
    path = tmp_path / "a.pth"
    torch.save(contents, path)
    return path


def logits(checkpoint, x=None):
    return networks.float64_logits(checkpoint.model, networks.images() if x is None else x)


# Files that upstream code wrote


@pytest.mark.parametrize(
    ("name", "size", "classes"), [("official", 96, 10), ("official-training-run", 64, 7)]
)
def test_a_golden_file_is_read_whole(name, size, classes):
    path, inputs, expected = networks.golden(name)
    checkpoint = read_checkpoint(str(path))
    assert checkpoint.path == path
    assert checkpoint.family == "official"
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.config.image_size == (size, size)
    assert checkpoint.config.num_classes == classes
    assert checkpoint.config.distillation
    assert not checkpoint.model.training
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.float32}
    actual = logits(checkpoint, torch.from_numpy(inputs))
    assert np.abs(actual - expected).max() < 1e-10 * np.abs(expected).max()


def test_float32_logits_are_as_near_as_those_of_upstream():
    path, inputs, expected = networks.golden("official")
    upstream = np.load(path.with_name("expected.npz"))["logits_float32"]
    with torch.no_grad():
        actual = read_checkpoint(path).model(torch.from_numpy(inputs).float()).numpy()
    assert np.abs(actual - expected).max() <= 4 * np.abs(upstream - expected).max()


@pytest.mark.parametrize("weights", ["model", "ema"])
def test_either_weights_of_a_training_run_can_be_named(weights):
    path, inputs, expected = networks.golden("official-training-run")  # both are equal in it
    actual = logits(read_checkpoint(path, weights=weights), torch.from_numpy(inputs))
    assert np.abs(actual - expected).max() < 1e-10 * np.abs(expected).max()


def test_the_chosen_weights_are_the_ones_loaded(tmp_path):
    one, two = networks.trained(seed=1), networks.trained(seed=2)
    path = saved(tmp_path, {"model": one.state_dict(), "model_ema": two.state_dict()})
    with pytest.raises(CheckpointError, match="--weights"):
        read_checkpoint(path)
    for weights, model in (("model", one), ("ema", two)):
        checkpoint = read_checkpoint(path, weights=weights)
        expected = networks.float64_logits(model, networks.images())
        assert np.array_equal(logits(checkpoint), expected)


# What the file does not say


def test_assumptions_are_passed_on(tmp_path):
    path = saved(tmp_path, networks.trained().half().state_dict())
    checkpoint = read_checkpoint(path)
    text = "\n".join(checkpoint.assumed)
    for part in ("eps", "hardswish", "64x96", "float16"):
        assert part in text
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.float32}


def test_float32_weights_are_no_assumption(tmp_path):
    checkpoint = read_checkpoint(saved(tmp_path, networks.trained().state_dict()))
    assert not any("stored" in text for text in checkpoint.assumed)


def test_the_activation_asked_for_is_the_one_computed_with(tmp_path):
    model = networks.trained(SMALL.replace(activation="gelu"))
    path = saved(tmp_path, model.state_dict())
    expected = networks.float64_logits(model, networks.images())
    assert np.array_equal(logits(read_checkpoint(path, activation="gelu")), expected)
    assert not np.array_equal(logits(read_checkpoint(path)), expected)


def test_the_image_size_asked_for_is_the_one_in_the_config(tmp_path):
    path = saved(tmp_path, networks.trained().state_dict())
    assert read_checkpoint(path, image_size=(50, 82)).config.image_size == (50, 82)


def test_the_sides_the_wrong_way_round_are_refused(tmp_path):
    path = saved(tmp_path, networks.trained().state_dict())
    with pytest.raises(CheckpointError, match="attention_bias_idxs does not hold the offsets"):
        read_checkpoint(path, image_size=(96, 64))


def test_safetensors_with_official_names_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(networks.trained().state_dict(), path, metadata={"format": "pt"})
    expected = networks.float64_logits(networks.trained(), networks.images())
    assert np.array_equal(logits(read_checkpoint(path)), expected)


# Other files


def test_another_network_is_refused_with_its_names(tmp_path):
    path = saved(tmp_path, torch.nn.Sequential(torch.nn.Linear(2, 3)).state_dict())
    with pytest.raises(CheckpointError, match=r"holds 2 tensors, such as 0\.weight, 0\.bias"):
        read_checkpoint(path)


def test_another_network_with_a_similar_stem_is_refused(tmp_path):
    path = saved(tmp_path, {"patch_embed.0.c.weight": torch.zeros(4, 3, 3, 3)})
    with pytest.raises(CheckpointError, match="0 stages"):
        read_checkpoint(path)


def test_a_damaged_state_dict_is_refused_by_name(tmp_path):
    state = networks.trained().state_dict()
    del state["blocks.0.m.qkv.bn.running_mean"]
    with pytest.raises(CheckpointError, match=r"missing blocks\.0\.m\.qkv\.bn\.running_mean"):
        read_checkpoint(saved(tmp_path, {"model": state}))


def test_an_unsafe_file_is_refused(tmp_path):
    state = networks.trained().state_dict()
    with pytest.raises(UnsafeInputError, match="Path"):
        read_checkpoint(saved(tmp_path, {"model": state, "output_dir": tmp_path}))


# Fused files


def test_a_fused_file_computes_what_its_checkpoint_does(fused_path):
    checkpoint = read_checkpoint(fused_path)
    expected = networks.float64_logits(networks.trained(), networks.images())
    assert np.abs(logits(checkpoint) - expected).max() < 1e-6 * np.abs(expected).max()
    assert checkpoint.family == "levit-deploy fused"
    assert checkpoint.config == SMALL.replace(distillation=False)
    assert checkpoint.sha256 == hashlib.sha256(fused_path.read_bytes()).hexdigest()
    assert checkpoint.assumed == ()


def test_options_that_agree_with_a_fused_file_are_accepted(fused_path):
    checkpoint = read_checkpoint(fused_path, activation="hardswish", image_size=(64, 96))
    assert checkpoint.config.image_size == (64, 96)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"activation": "silu"}, "--activation asks for silu"),
        ({"image_size": (96, 64)}, "--image-size asks for"),
        ({"weights": "ema"}, "--weights"),
    ],
)
def test_options_that_contradict_a_fused_file_are_usage_errors(fused_path, options, named):
    with pytest.raises(UsageError, match=named):
        read_checkpoint(fused_path, **options)


def test_a_fused_file_with_damaged_metadata_is_refused(tmp_path):
    metadata = Provenance("ab", SMALL, "mean", "tokens").to_metadata()
    metadata["config"] = metadata["config"][:-20]
    path = tmp_path / "fused.safetensors"
    save_file(to_plain(networks.trained()).state_dict(), path, metadata=metadata)
    with pytest.raises(CheckpointError, match="metadata is damaged"):
        read_checkpoint(path)


def test_a_fused_file_without_its_metadata_is_not_guessed_at(fused_path, tmp_path):
    tensors = read_checkpoint(fused_path).model.state_dict()
    path = tmp_path / "stripped.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
