import numpy as np
import torch
from networks import SMALL, float64_logits, images, trained
from torch import nn

from levit_deploy.model import BN_Linear, MeanPool, Scale
from levit_deploy.passes.replace import copied, replace_modules


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def identity(_leaf: nn.Module, _name: str) -> nn.Module:
    return nn.Identity()


def contents(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_replaces_every_leaf_of_the_kind_at_any_depth_and_no_other():
    names = []

    def replacement(_leaf, name):
        names.append(name)
        return Doubled()

    replaced = replace_modules(trained(), Scale, replacement)
    # SMALL's attentions: blocks 0, 2, 6, 9 are residual, 4 and 8 subsample
    expected = ["0.m", "2.m", "4", "6.m", "8", "9.m"]
    assert names == [f"blocks.{block}.scale" for block in expected]
    assert [n for n, m in replaced.named_modules() if isinstance(m, Doubled)] == names
    assert not any(isinstance(module, Scale) for module in replaced.modules())
    assert contents(replaced) == contents(trained())


def test_replaces_a_direct_child_of_the_model():
    replaced = replace_modules(trained(), BN_Linear, identity)
    assert isinstance(replaced.head, nn.Identity)
    assert isinstance(replaced.head_dist, nn.Identity)
    with torch.inference_mode():
        features = trained().double().forward_features(images().double()).numpy()
    np.testing.assert_allclose(float64_logits(replaced, images()), features, rtol=1e-10)


def test_replaces_what_inherits_from_the_kind():
    replaced = replace_modules(trained(), nn.modules.batchnorm._BatchNorm, identity)
    kinds = {type(module) for module in replaced.modules()}
    assert not kinds & {nn.BatchNorm1d, nn.BatchNorm2d}


def test_the_replacement_gets_a_copy_and_may_give_it_other_tensors():
    model = trained()
    before = contents(model)

    def emptied(leaf, _name):
        leaf.weight = nn.Parameter(torch.zeros_like(leaf.weight))
        leaf.half()
        return leaf

    replaced = replace_modules(model, nn.Linear, emptied)
    assert contents(model) == before
    assert not replaced.head.l.weight.any()
    assert replaced.head.l.bias.dtype == torch.float16


def test_a_copy_has_its_own_modules_modes_and_hooks_but_no_tensor_of_its_own():
    model = trained()
    model.again = model.head  # one module at two places
    copy, calls = copied(model), []
    assert contents(copy) == contents(model)
    assert list(copy.state_dict()) == list(model.state_dict())  # under the official names
    assert [t.data_ptr() for t in copy.parameters()] == [t.data_ptr() for t in model.parameters()]
    assert copy.again is copy.head is not model.head

    copy.train().head.register_forward_hook(lambda *_: calls.append("copy"))
    copy.blocks.extra = nn.Identity()
    assert not any(module.training for module in model.modules())
    assert not hasattr(model.blocks, "extra")
    before = model(images())
    assert calls == []
    copy.eval()
    del model  # hooks of the copy are not the original's
    assert torch.equal(copy(images()), before)
    assert calls == ["copy"]
    copy.load_state_dict(copy.state_dict())


def test_without_such_a_leaf_the_result_is_an_equal_copy():
    model = replace_modules(trained(), MeanPool, identity)
    again = replace_modules(model, MeanPool, identity)
    assert again is not model
    assert contents(again) == contents(model)
    assert list(dict(again.named_modules())) == list(dict(model.named_modules()))
    shared = {id(m) for m in again.modules()} & {id(m) for m in model.modules()}
    assert not shared
    assert SMALL.num_classes == again.head.l.out_features
