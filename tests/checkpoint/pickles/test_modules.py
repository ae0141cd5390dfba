"""Modules saved whole: their state dict is torch's own, though their class is never imported."""

import importlib
import sys

import pytest
import torch
from torch import nn

from levit_deploy.checkpoint.files import read_file
from levit_deploy.checkpoint.pickles.inert import Inert
from levit_deploy.errors import CheckpointError, UnsafeInputError


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, bias=False)
        self.bn = nn.BatchNorm2d(2, eps=1e-3)
        self.scale = nn.Parameter(torch.rand(2))
        self.register_buffer("kept", torch.rand(2))
        self.register_buffer("left", torch.rand(2), persistent=False)
        self.act, self.size, self.none = nn.GELU(approximate="tanh"), (1, 2), None


class ModelEma:
    pass


def network():
    torch.manual_seed(0)
    part = Part()
    return nn.Sequential(part, nn.Sequential(nn.Hardswish(), part), nn.Linear(2, 3))


def same(state, module):
    expected = module.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_state_dict_of_a_module_is_torch_s(tmp_path, protocol):
    torch.save(network(), tmp_path / "a.pth", pickle_protocol=protocol)
    same(read_file(tmp_path / "a.pth").contents, network())


def test_a_module_under_a_key_and_in_wrappers(tmp_path):
    contents = {"model": nn.DataParallel(network()), "epoch": 3, "loss": nn.CrossEntropyLoss()}
    torch.save(contents, tmp_path / "a.pth")
    file = read_file(tmp_path / "a.pth")
    same(file.contents["model"], contents["model"])
    assert file.contents["epoch"] == 3
    assert "module.0.bn" in file.modules
    assert not any("Loss" in module.class_name for module in file.modules.values())


def test_modules_in_lists_and_deep_in_dicts(tmp_path):
    torch.save({"a": {"b": [0, {"c": (network(),)}]}}, tmp_path / "a.pth")
    same(read_file(tmp_path / "a.pth").contents["a"]["b"][1]["c"][0], network())


def test_the_facts_of_modules(tmp_path):
    torch.save({"model": network()}, tmp_path / "a.pth")
    modules = read_file(tmp_path / "a.pth").modules
    assert modules[""].class_name == "torch.nn.modules.container.Sequential"
    assert modules["0"].class_name == f"{__name__}.Part"
    assert modules["0"].settings == {"training": True, "size": (1, 2), "none": None}
    assert modules["1.1.bn"].settings["eps"] == 1e-3
    assert modules["0.act"].settings["approximate"] == "tanh"
    assert modules["1.0"].class_name == "torch.nn.modules.activation.Hardswish"
    torch.save(network().state_dict(), tmp_path / "a.pth")
    assert read_file(tmp_path / "a.pth").modules == {}


def test_networks_that_contradict_each_other_say_nothing(tmp_path):
    torch.save({"a": nn.Sequential(nn.BatchNorm2d(2)), "b": network()}, tmp_path / "a.pth")
    modules = read_file(tmp_path / "a.pth").modules
    assert "0" not in modules
    assert "2" in modules


def test_an_object_that_holds_weights_is_a_dict(tmp_path):
    ema = ModelEma()
    ema.module, ema.decay = network(), 0.99
    torch.save({"ema": ema}, tmp_path / "a.pth")
    contents = read_file(tmp_path / "a.pth").contents
    same(contents["ema"]["module"], network())
    assert contents["ema"]["decay"] == 0.99


def test_nothing_is_imported(tmp_path, monkeypatch):
    """The class's module leaves a canary if it is imported again."""
    monkeypatch.syspath_prepend(tmp_path)
    canary, source = tmp_path / "canary", tmp_path / "their_network.py"
    source.write_text("from torch import nn\nclass Net(nn.Linear):\n    pass\n")
    net = importlib.import_module("their_network").Net(2, 2)
    torch.save(net, tmp_path / "a.pth")
    source.write_text(f"open({str(canary)!r}, 'w').close()\n")
    monkeypatch.delitem(sys.modules, "their_network")
    same(read_file(tmp_path / "a.pth").contents, net)
    assert "their_network" not in sys.modules
    assert not canary.exists()


def test_modules_without_end_are_refused(tmp_path):
    module = nn.Sequential()
    for _ in range(60):
        module = nn.Sequential(module, module)
    torch.save({"model": module}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="steps"):
        read_file(tmp_path / "a.pth")


class Quantized:
    def __init__(self, numbers):
        self.numbers = numbers

    def __reduce__(self):
        return Quantized, (self.numbers,)


def test_weights_that_only_code_can_make_are_refused(tmp_path):
    state = {"a.weight": torch.ones(2), "b.weight": Quantized(torch.ones(2))}
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(UnsafeInputError, match=r"holds b\.weight as a .*Quantized"):
        read_file(tmp_path / "a.pth")
    torch.save(
        {"model": {"a.weight": torch.ones(2)}, "extra": Quantized(torch.ones(2))},
        tmp_path / "a.pth",
    )
    assert isinstance(read_file(tmp_path / "a.pth").contents["extra"], Inert)
