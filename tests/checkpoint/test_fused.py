import dataclasses
import json
import resource
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import load

from levit_deploy.checkpoint import fused
from levit_deploy.errors import CheckpointError
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance, is_ours

SMALL = networks.SMALL
PATH = Path("some.safetensors")
ORIGIN = Provenance(checkpoint_sha256="ab" * 32, config=SMALL, head="mean", layout="tokens")


def restored(changes=None, tensors=None):
    if tensors is None:
        tensors = to_plain(networks.trained()).state_dict()
    metadata = {**ORIGIN.to_metadata(), **(changes or {})}
    return fused.restore(tensors, metadata, PATH)


def changed_config(**changes):
    return json.dumps({**json.loads(SMALL.to_json()), **changes})


@settings(deadline=None, max_examples=8)
@given(networks.configs())
def test_round_trip_gives_the_logits_of_the_training_form(config):
    model, x = networks.trained(config), networks.images(config)
    data = fused.serialize(
        to_plain(model),
        Provenance(checkpoint_sha256="0", config=config, head="mean", layout="tokens"),
    )
    metadata = Provenance(
        checkpoint_sha256="0", config=config, head="mean", layout="tokens"
    ).to_metadata()
    again, read = fused.restore(load(data), metadata, PATH)
    assert read.config == config.replace(distillation=False)
    expected = networks.float64_logits(model, x)
    actual = networks.float64_logits(again, x)
    assert np.abs(actual - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_round_trip_keeps_every_bit():
    plain, x = to_plain(networks.trained()), networks.images()
    again, _ = fused.restore(load(fused.serialize(plain, ORIGIN)), ORIGIN.to_metadata(), PATH)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(x), plain(x))


def test_the_file_says_where_it_comes_from(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(fused.serialize(to_plain(networks.trained()), ORIGIN))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert is_ours(metadata)
    assert Provenance.from_metadata(metadata) == ORIGIN
    assert metadata["checkpoint_sha256"] == "ab" * 32


def test_the_same_model_gives_the_same_tensors_and_no_batchnorm():
    plain = to_plain(networks.trained())
    tensors = load(fused.serialize(plain, ORIGIN))
    assert tensors.keys() == plain.state_dict().keys()
    assert all(torch.equal(tensors[key], value) for key, value in plain.state_dict().items())
    assert not any("bn" in key or "running" in key for key in tensors)


@pytest.mark.parametrize("key", ["checkpoint_sha256", "config", "head", "layout"])
def test_missing_metadata_is_refused_and_named(key):
    metadata = ORIGIN.to_metadata()
    del metadata[key]
    with pytest.raises(CheckpointError, match=rf"metadata is damaged.*{key}"):
        fused.restore(to_plain(networks.trained()).state_dict(), metadata, PATH)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        changed_config(image_size=5),
        changed_config(image_size=["a", "b"]),
        changed_config(stages=[]),
        changed_config(stages=[{"dim": 3}]),
        changed_config(activation="mish"),
        changed_config(bn_eps="small"),
        changed_config(num_classes=0),
        changed_config(unheard_of=1),
        pytest.param(changed_config(image_size=[64, 96, 3]), id="three sides"),
        pytest.param(changed_config(image_size=[64.5, 96]), id="half a pixel"),
        pytest.param(changed_config(num_classes=7.5), id="half a class"),
        pytest.param(changed_config(stem_dims=[2, 4.5, 6, 12]), id="half a channel"),
        pytest.param("[" * 100_000, id="nested too deeply"),
    ],
)
def test_a_damaged_config_is_refused(config):
    with pytest.raises(CheckpointError, match=r"some\.safetensors.*metadata is damaged"):
        restored({"config": config})


def test_a_config_of_another_network_is_refused():
    with pytest.raises(CheckpointError, match="wrong shapes"):
        restored({"config": SMALL.replace(num_classes=8).to_json()})


def test_tensors_in_training_form_are_refused():
    with pytest.raises(CheckpointError, match=r"missing .*surplus "):
        restored(tensors=networks.trained().state_dict())


def test_a_missing_tensor_is_named():
    tensors = to_plain(networks.trained()).state_dict()
    del tensors["patch_embed.0.bias"]
    with pytest.raises(CheckpointError, match=r"missing patch_embed\.0\.bias"):
        restored(tensors=tensors)


def test_a_tensor_that_is_not_finite_is_refused():
    tensors = to_plain(networks.trained()).state_dict()
    tensors["patch_embed.0.bias"] = tensors["patch_embed.0.bias"] * float("nan")
    with pytest.raises(CheckpointError, match=r"patch_embed\.0\.bias holds NaN"):
        restored(tensors=tensors)


def test_restoring_does_not_depend_on_the_random_state():
    torch.manual_seed(1)
    one, _ = restored()
    torch.manual_seed(2)
    two, _ = restored()
    assert all(torch.equal(two.state_dict()[key], v) for key, v in one.state_dict().items())


@settings(deadline=None, max_examples=15)
@given(networks.configs())
def test_provenance_survives_its_own_metadata(config):
    origin = Provenance(checkpoint_sha256="00", config=config, head="distill", layout="spatial")
    assert Provenance.from_metadata(origin.to_metadata()) == origin


@pytest.mark.parametrize("metadata", [{}, {"tool": "pt"}, {"tool": "levit-deployer 1"}])
def test_metadata_of_others_is_not_ours(metadata):
    assert not is_ours(metadata)


def test_one_head_is_all_a_fused_file_has():
    model, provenance = restored()
    assert isinstance(model, LeViT)
    assert not provenance.config.distillation
    assert provenance.head == ORIGIN.head
    assert not any(key.startswith("head_dist") for key in model.state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 10**9},
        {"num_classes": 10**18},
        {"image_size": [1024, 1024]},
        {"stages": [{**dataclasses.asdict(SMALL.stages[0]), "depth": 10**9}], "downsamples": []},
        {"stages": [{**dataclasses.asdict(SMALL.stages[0]), "depth": 30}], "downsamples": []},
    ],
)
def test_metadata_of_a_far_larger_network_takes_no_memory(changes):
    metadata = {**ORIGIN.to_metadata(), "config": changed_config(**changes)}
    tensors = to_plain(networks.trained()).state_dict()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"far larger network|fit no memory|missing"):
        fused.restore(tensors, metadata, PATH)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
