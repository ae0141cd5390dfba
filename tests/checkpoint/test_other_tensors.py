"""Tensors beside a LeViT's own: passed over by kind or by word, never in silence."""

import time
from pathlib import Path

import networks
import pytest
import torch

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.checkpoint.families import official
from levit_deploy.checkpoint.given import Selection
from levit_deploy.checkpoint.other_tensors import own_tensors
from levit_deploy.checkpoint.state import find_weights
from levit_deploy.errors import CheckpointError, UsageError

PATH = Path("some.pth")
STATE = networks.trained().state_dict()
HEADLESS = {key: tensor for key, tensor in STATE.items() if not key.startswith("head")}
CLASSES, WIDTH = networks.SMALL.num_classes, networks.SMALL.stages[-1].dim


def behind(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def own(contents, weights=None, **options):
    found = find_weights(contents, weights, PATH)
    return own_tensors(found, official, Selection(weights=weights, **options), PATH)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("criterion.weight", torch.ones(7), "of a loss"),
        ("loss_fn.pos_weight", torch.ones(7), "of a loss"),
        ("criterion.criteria.0.weight", torch.ones(7), "of a loss"),
        ("train_acc.tp", torch.ones(7), "of a metric"),
        ("val_metrics.f1.confmat", torch.ones(7, 7), "of a metric"),
        ("n_averaged", torch.tensor(5), "counted by torch's AveragedModel"),
        ("steps", torch.tensor(5), "counted by mmengine's averaged model"),
        ("total_ops", torch.zeros(1), "counted by thop"),
        ("net.blocks.0.m.qkv.total_params", torch.zeros(1), "counted by thop"),
        ("net.head.l.total_ops", torch.zeros(1), "counted by thop"),
    ],
)
def test_known_kinds_are_passed_over_and_named(name, tensor, reason):
    tensors = own({**behind("net.", STATE), name: tensor})
    assert tensors.state.keys() == STATE.keys()
    assert tensors.passed_over == (f"{name} ({reason})",)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("criterion.weight", torch.ones(7, WIDTH)),  # a head that lives in its loss
        ("total_ops", torch.ones(2)),
        ("net.blocks.0.m.qkv.c.weight_mask", torch.ones(7)),
        ("net.scale", torch.ones(1)),
        ("mean", torch.ones(3)),  # could be the network's own normalisation
        ("net.head.l.lora_A", torch.ones(2)),
        ("tp", torch.ones(2)),
    ],
)
def test_what_could_count_is_refused_by_name(name, tensor):
    contents = {**behind("net.", STATE), name: tensor}
    with pytest.raises(CheckpointError, match=f"another tensor: {name} .*--ignore"):
        own(contents)
    assert own(contents, ignore=(name,)).passed_over == (f"{name} (by --ignore)",)


@pytest.mark.parametrize("name", ["blocks.0.m.proj.0", "blocks.1.m.1", "stem.act1"])
def test_slopes_of_a_prelu_are_refused_as_such(name):
    contents = behind("net.", {**STATE, f"{name}.weight": torch.full((1,), 0.25)})
    with pytest.raises(CheckpointError, match=f"{name}.weight.* slopes of PReLU.* hardswish"):
        own(contents)


def test_the_pattern_that_is_advised_takes_what_is_in_the_way():
    contents = {
        **behind("net.", STATE),
        "net.blocks.0.m.odd": torch.ones(3),
        "net.aux.weight": torch.ones(3, 3),
        "teacher.fc.weight": torch.ones(3, 3),
    }
    taken = []
    for _ in range(3):
        with pytest.raises(CheckpointError) as caught:
            own(contents, ignore=tuple(taken))
        taken.append(str(caught.value).partition("--ignore '")[2].partition("'")[0])
    assert taken == ["net.blocks.0.m.odd", "net.aux.*", "teacher.*"]
    assert own(contents, ignore=tuple(taken)).state.keys() == STATE.keys()


def test_patterns_are_for_names_with_or_without_the_prefix():
    contents = behind("module.net.", {**STATE, "fc.weight": torch.ones(3, 3)})
    for pattern in ("fc.*", "net.fc.*", "module.net.fc.*", "*.fc.weight"):
        assert own(contents, ignore=(pattern,)).passed_over == ("net.fc.weight (by --ignore)",)


@pytest.mark.parametrize(
    "pattern", ["*", "blocks.0.*", "head_dist.*", "net.patch_embed*", "*.bn.*"]
)
def test_a_pattern_must_not_take_what_the_network_needs(pattern):
    with pytest.raises(UsageError, match="which the network needs"):
        own({**behind("net.", STATE), "fc.weight": torch.ones(3, 3)}, ignore=(pattern,))


def test_a_pattern_must_match_something():
    with pytest.raises(UsageError, match=r"'fc\.\*' matches no tensor in some\.pth"):
        own(STATE, ignore=("fc.*",))
    known = {**STATE, "criterion.weight": torch.ones(3)}
    assert own(known, ignore=("criterion.*",)).passed_over == ("criterion.weight (of a loss)",)


def test_the_network_beside_another_is_chosen_by_its_prefix():
    contents = behind("student.", STATE) | behind("teacher.", {"fc.weight": torch.ones(9, 5)})
    with pytest.raises(CheckpointError, match=r"teacher\.fc\.weight .*--weights student or"):
        own({"state_dict": contents})
    chosen = own({"state_dict": contents}, "student")
    assert chosen.state.keys() == STATE.keys()
    assert chosen.passed_over == ("teacher.fc.weight (not of student)",)
    inside = {**contents, "student.scale": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"another tensor: student\.scale"):
        own({"state_dict": inside}, "student")


def test_a_place_counts_only_if_it_is_given():
    contents = behind("model.", STATE) | {"teacher.fc.weight": torch.ones(9, 5)}
    with pytest.raises(CheckpointError, match=r"another tensor: teacher\.fc\.weight"):
        own(contents)
    assert own(contents, "model").passed_over == ("teacher.fc.weight (not of model)",)


# A head of one's own


@pytest.mark.parametrize("place", ["beside", "inside", "in another dict"])
def test_a_head_of_ones_own_is_asked_for(place):
    weight = torch.ones(CLASSES, WIDTH)
    contents = behind("net.", HEADLESS)
    if place == "beside":
        contents |= {"fc.weight": weight}
    elif place == "inside":
        contents |= {"net.fc.weight": weight}
    else:
        contents = {"net": HEADLESS, "fc": {"weight": weight}, "optimizer": {"m": weight}}
    with pytest.raises(CheckpointError, match=r"without a head.* fc\.weight|net\.fc\.weight") as e:
        own(contents)
    name = "net.fc" if place == "inside" else "fc"
    assert f"--head-name {name}." in str(e.value)
    assert own(contents, head_name=name).head["weight"] is weight
    assert own(contents, ignore=(f"{name}.*",)).passed_over == (f"{name}.weight (by --ignore)",)


def test_a_trunk_alone_needs_no_word():
    assert own({"model": HEADLESS, "optimizer": {"m": torch.ones(3, 3)}}).passed_over == ()


def test_the_bias_of_a_head_is_no_class_weight_of_a_loss():
    head = {"loss_head.weight": torch.ones(CLASSES, WIDTH), "loss_head.bias": torch.ones(CLASSES)}
    assert own(HEADLESS | head, head_name="loss_head").head.keys() == {"weight", "bias"}


def test_the_heads_that_are_not_named_are_passed_over():
    contents = {**STATE, "fc.weight": torch.ones(CLASSES, WIDTH)}
    with pytest.raises(CheckpointError, match=r"If fc is its head, give --head-name fc"):
        own(contents)
    tensors = own(contents, head_name="fc")
    assert tensors.state.keys() == HEADLESS.keys()
    (passed_over,) = tensors.passed_over
    assert passed_over.startswith("head.bn.weight")
    assert passed_over.endswith("(not of the head named)")


@pytest.mark.parametrize("module", ["classifier", "blocks", "f", "fc.weight"])
def test_a_head_that_is_not_there_is_a_usage_error(module):
    contents = {**HEADLESS, "fc.weight": torch.ones(CLASSES, WIDTH)}
    with pytest.raises(UsageError, match=f"--head-name {module} was given.*It has fc.weight"):
        own(contents, head_name=module)


def test_a_fused_file_has_no_choice_left(tmp_path):
    from levit_deploy import pipeline

    path = tmp_path / "some.pth"
    torch.save({**STATE, "criterion.weight": torch.ones(7), "aux.weight": torch.ones(1)}, path)
    checkpoint = read_checkpoint(path, ignore=["aux.*"])
    assert checkpoint.passed_over == ("criterion.weight (of a loss)", "aux.weight (by --ignore)")
    fused = pipeline.fuse(checkpoint, tmp_path / "fused.safetensors").path
    assert read_checkpoint(fused).passed_over == checkpoint.passed_over
    for option in ({"ignore": "aux.*"}, {"head_name": "fc"}, {"weights": "model"}):
        with pytest.raises(UsageError, match="was fused from one set of weights"):
            read_checkpoint(fused, **option)


@pytest.mark.parametrize("inside", ["", "net."])
def test_many_names_take_little_time(inside):
    contents = behind("net.", STATE)
    contents |= {f"{inside}aux.{i}.weight": torch.ones(1, 1) for i in range(8_000)}
    begin = time.process_time()
    with pytest.raises(CheckpointError, match="8000 more tensors"):
        own(contents)
    left_out = own(contents, ignore=(f"{inside}aux.*",)).passed_over
    assert "and 7996 more (by --ignore)" in left_out[0]
    headless = behind("net.", HEADLESS) | {f"a{i}.weight": torch.ones(1, 1) for i in range(8_000)}
    with pytest.raises(CheckpointError, match="--head-name a0"):
        own(headless)
    with pytest.raises(UsageError, match="7996 more"):
        own(headless, head_name="fc")
    assert time.process_time() - begin < 10


def test_a_head_of_another_form_can_be_left_out():
    layers = {"0.weight": torch.ones(8, WIDTH), "2.weight": torch.ones(CLASSES, 8)}
    contents = HEADLESS | behind("head.", layers)
    with pytest.raises(CheckpointError, match=r"without a head.* head\.0\.weight") as caught:
        own(contents)
    assert "--head-name" not in str(caught.value)  # no head that is supported
    assert own(contents, ignore=("head.*",)).state.keys() == HEADLESS.keys()
