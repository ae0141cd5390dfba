"""Networks that Python has at hand: a live module, its state dict, a dict with one."""

import argparse
import copy

import foreign
import numpy as np
import pytest
import torch
from networks import SMALL, float64_logits, images, trained
from torch import nn

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import CheckpointError, UsageError

GELU = SMALL.replace(activation="gelu")
SQUARE = SMALL.replace(image_size=(64, 64))  # so that the tensors tell the size


def logits(checkpoint):
    return float64_logits(checkpoint.model, images())


def live_transformers():
    """A LevitForImageClassification in training mode, with random numbers and names of classes."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        down_ops=[["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 3, 4, 2, 2]],
        id2label={0: "ant", 1: "bee", 2: "cat"},
    )
    return randomised(transformers.LevitForImageClassification(config)).train()


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return model


def test_a_live_network_of_transformers_is_read_and_left_as_it_is():
    model = live_transformers()
    before = copy.deepcopy(model.state_dict())
    checkpoint = read_checkpoint(model)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (checkpoint.family, checkpoint.labels) == ("transformers", ("ant", "bee", "cat"))
    assert (str(checkpoint.path), checkpoint.files) == ("the LevitForImageClassification", ())
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = copy.deepcopy(model).double().eval()(x).logits
        ours = copy.deepcopy(checkpoint.model).double()(x)
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=1e-10)
    with torch.no_grad():  # the training may go on
        for tensor in model.parameters():
            tensor.zero_()
    assert torch.equal(copy.deepcopy(checkpoint.model).double()(x), ours)


def test_the_classes_of_its_modules_tell_the_activation_and_a_state_dict_has_none():
    model = trained(GELU).train()
    of_module, of_dict = read_checkpoint(model), read_checkpoint(model.state_dict())
    assert (of_module.config, of_module.proven_if) == (GELU, ())
    assert np.array_equal(logits(of_module), float64_logits(copy.deepcopy(model).eval(), images()))
    assert of_dict.config == SMALL
    assert of_dict.proven_if == ("the activation is hardswish",)
    assert np.array_equal(
        logits(read_checkpoint(model.state_dict(), activation="gelu")), logits(of_module)
    )


def test_eps_is_that_of_its_modules():
    config = SMALL.replace(bn_eps=1e-3)
    assert read_checkpoint(trained(config)).config.bn_eps == 1e-3


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: {"model": model, "epoch": 3}])
def test_a_wrapped_network_is_read(wrap):
    checkpoint = read_checkpoint(wrap(trained(GELU)))
    assert checkpoint.config == GELU
    assert np.array_equal(logits(checkpoint), float64_logits(trained(GELU), images()))


def test_the_modules_beside_a_network_say_nothing_of_it():
    both = nn.ModuleDict(
        {"net": trained(GELU), "teacher": nn.Sequential(nn.Linear(2, 3), nn.Mish())}
    )
    checkpoint = read_checkpoint(both, ignore=["teacher.*"])
    assert checkpoint.config == GELU
    assert not any("eps" in assumption for assumption in checkpoint.assumed)


def test_networks_in_a_list_count_in_the_sha256():
    one = read_checkpoint({"models": [trained(SMALL).state_dict()]})
    changed = {name: tensor * 2 for name, tensor in trained(SMALL).state_dict().items()}
    changed |= {name: t for name, t in trained(SMALL).state_dict().items() if "idxs" in name}
    assert read_checkpoint({"models": [changed]}).sha256 != one.sha256


def test_a_live_model_without_a_head_may_have_the_config_of_its_checkpoint():
    whole = live_transformers()
    whole.config.architectures = ["LevitForImageClassification"]  # as from_pretrained leaves it
    assert read_checkpoint(whole.levit).config.headless


def test_a_checkpoint_that_torch_has_loaded_is_read_with_its_arguments():
    state = foreign.state_of("timm", SQUARE)
    arguments = argparse.Namespace(model="levit_128s", model_kwargs={"act_layer": "gelu"})
    loaded = {"state_dict": state, "args": arguments, "optimizer": {"state": {0: {}}}}
    checkpoint = read_checkpoint(loaded)
    assert checkpoint.config.activation == "gelu"
    assert checkpoint.family == "timm"


def test_what_lies_in_the_current_folder_is_not_its_record(tmp_path, monkeypatch):
    (tmp_path / "args.yaml").write_text("model: levit_128s\nmodel_kwargs: {act_layer: gelu}\n")
    monkeypatch.chdir(tmp_path)
    state = foreign.state_of("timm", SQUARE)
    assert read_checkpoint(state).config.activation == "hardswish"
    torch.save(state, "a.pth")
    assert read_checkpoint("a.pth").config.activation == "gelu"


class OfTimm(nn.Module):
    """As timm makes it: the pictures are described by an attribute."""

    def __init__(self, state):
        super().__init__()
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (3, 224, 224)}
        for name, tensor in state.items():
            module = self
            *path, last = name.split(".")
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_buffer(last, tensor)


def test_the_pictures_of_a_network_of_timm_are_those_that_it_describes():
    checkpoint = read_checkpoint(OfTimm(foreign.state_of("timm", SQUARE)))
    assert not checkpoint.preprocessing.assumed
    assert checkpoint.preprocessing.std == (0.25, 0.25, 0.25)


def test_the_sha256_is_that_of_the_tensors():
    state = trained().state_dict()
    sha256 = read_checkpoint(state).sha256
    assert len(sha256) == 64
    backwards = dict(reversed(state.items()))
    assert read_checkpoint(trained()).sha256 == read_checkpoint(backwards).sha256 == sha256
    state["head.l.bias"] = state["head.l.bias"] + 1
    assert read_checkpoint(state).sha256 != sha256


@pytest.mark.parametrize("other", [3, None, [torch.ones(2)]])
def test_other_objects_are_refused(other):
    with pytest.raises(UsageError, match=r"is not a checkpoint\. Expected a path, a torch module"):
        read_checkpoint(other)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Linear(2, 2), "the Linear holds 2 tensors, such as weight, bias"),
        ({}, "the dict holds nothing"),
        ({"a": 3}, "the dict holds 'a'"),
        (trained().to("meta"), "on meta"),
    ],
)
def test_another_network_is_refused_by_its_type(other, words):
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(other)
