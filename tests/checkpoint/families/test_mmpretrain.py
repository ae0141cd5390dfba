import foreign
import torch
from networks import SMALL, float64_logits, golden, trained

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.checkpoint.families import mmpretrain


def test_blocks_are_counted_through_the_stages():
    state = foreign.state_of("mmpretrain", SMALL)
    converted = mmpretrain.convert(state)
    assert converted["blocks.4.kv.c.weight"] is state["backbone.stages.1.0.kv.linear.weight"]
    assert (
        converted["blocks.6.m.qkv.c.weight"] is state["backbone.stages.1.2.block.qkv.linear.weight"]
    )


def test_a_backbone_alone_has_names_without_its_prefix():
    state = foreign.state_of("mmpretrain", SMALL)
    alone = {
        key.removeprefix("backbone."): tensor
        for key, tensor in state.items()
        if key.startswith("backbone.")
    }
    assert mmpretrain.matches(alone)
    trunk = {key for key in trained().state_dict() if not key.startswith("head")}
    assert mmpretrain.convert(alone).keys() == trunk


def test_layers_fused_by_switch_to_deploy_compute_the_same(tmp_path):
    path, inputs, _ = golden("mmpretrain")
    model = read_checkpoint(path).model
    state = torch.load(path)["state_dict"]
    for key in [key for key in state if key.endswith("running_var")]:
        fused_by_upstream(state, key.removesuffix(".bn.running_var"))
    torch.save({"state_dict": state}, tmp_path / "deploy.pth")
    checkpoint = read_checkpoint(tmp_path / "deploy.pth")
    assert checkpoint.config.norm == "none"
    x = torch.from_numpy(inputs)
    expected = float64_logits(model, x)
    error = abs(float64_logits(checkpoint.model, x) - expected).max()
    assert error < 1e-5 * abs(expected).max()


def fused_by_upstream(state, name):
    """The ``fuse`` of ConvolutionBatchNorm, LinearBatchNorm and BatchNormLinear."""
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    weight, bias, mean, var, _ = (state.pop(f"{name}.bn.{leaf}").double() for leaf in leaves)
    factor = weight / (var + 1e-5) ** 0.5
    layer = next(k for k in (f"{name}.conv", f"{name}.linear") if f"{k}.weight" in state)
    matrix = state.pop(f"{layer}.weight").double()
    if f"{layer}.bias" in state:  # a head, with its BatchNorm before
        offset = matrix @ (bias - mean * factor) + state.pop(f"{layer}.bias").double()
        matrix = matrix * factor
    else:
        offset = bias - mean * factor
        matrix = matrix * factor.reshape(-1, *[1] * (matrix.dim() - 1))
    state[f"{name}.weight"], state[f"{name}.bias"] = matrix.float(), offset.float()
