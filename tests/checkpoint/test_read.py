import argparse
import hashlib
import json
from dataclasses import replace

import foreign
import networks
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LevitConfig, LevitForImageClassification

from levit_deploy.checkpoint import fused, read_checkpoint
from levit_deploy.checkpoint.resize import resize
from levit_deploy.errors import CheckpointError, UnsafeInputError, UsageError
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance

SMALL = networks.SMALL
SAFETENSORS = "model.safetensors"


@pytest.fixture
def fused_path(tmp_path):
    path = tmp_path / "fused.safetensors"
    plain = to_plain(networks.trained())
    path.write_bytes(
        fused.serialize(
            plain, Provenance(checkpoint_sha256="ab", config=SMALL, head="mean", layout="tokens")
        )
    )
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


def test_safetensors_with_official_names_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(networks.trained().state_dict(), path, metadata={"format": "pt"})
    expected = networks.float64_logits(networks.trained(), networks.images())
    assert np.array_equal(logits(read_checkpoint(path)), expected)


# Folders, and what their configs say


def hub_folder(tmp_path, config, **fields):
    """A folder as timm's push_to_hf_hub leaves it."""
    model = networks.trained(config)
    state = foreign.timm(model, config)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / SAFETENSORS)
    pretrained = {"input_size": [3, 224, 224], "crop_pct": 0.9}
    saved = {"architecture": "levit_256d", "pretrained_cfg": pretrained} | fields
    saved["model_args"] = {"embed_dim": [12, 16, 18]} | saved.get("model_args", {})
    (tmp_path / "config.json").write_text(json.dumps(saved))
    return model


def test_a_folder_needs_no_flags(tmp_path):
    config = SMALL.replace(activation="silu", attention_activation="gelu")
    arguments = {"img_size": [64, 96], "attn_act_layer": "gelu"}
    model = hub_folder(tmp_path, config, model_args=arguments)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.config == config
    assert checkpoint.path == tmp_path / SAFETENSORS
    assert [text for text in checkpoint.assumed if "eps" not in text] == []
    assert np.array_equal(logits(checkpoint), networks.float64_logits(model, networks.images()))


def test_pickled_weights_in_a_folder_are_read(tmp_path):
    state = foreign.state_of("transformers", SMALL.replace(image_size=(64, 64)))
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "levit", "image_size": 64}))
    assert read_checkpoint(tmp_path).config == SMALL.replace(image_size=(64, 64))


def test_a_config_that_contradicts_the_tensors_is_refused(tmp_path):
    hub_folder(tmp_path, SMALL, model_args={"img_size": 224})
    with pytest.raises(CheckpointError, match=r"config\.json.*224x224.* 24"):
        read_checkpoint(tmp_path)


def test_an_activation_that_contradicts_the_config_wins_and_conditions_the_verdict(tmp_path):
    hub_folder(tmp_path, SMALL, model_args={"img_size": [64, 96]})
    checkpoint = read_checkpoint(tmp_path, activation="hardswish")
    assert checkpoint.config.activation == "hardswish"
    assert any("though config.json says silu" in text for text in checkpoint.assumed)
    assert checkpoint.proven_if == ("the activation is hardswish",)
    checkpoint = read_checkpoint(tmp_path, activation="silu")
    assert checkpoint.config.activation == "silu"
    assert checkpoint.proven_if == ()


@pytest.mark.parametrize(
    ("release", "bias", "activation"),
    [
        ("0.16.0", 0, "gelu"),
        ("0.18.1", 0, "gelu"),
        ("0.18.2", -1, "gelu"),
        ("0.18.3", 1, "gelu"),
        ("0.20.4", 1, "gelu"),
        ("0.20.5", 1, "hardswish"),
        ("1.26.11", 1, "hardswish"),
    ],
)
def test_a_release_of_vit_pytorch_tells_its_arithmetic(tmp_path, release, bias, activation):
    path = saved(tmp_path, foreign.state_of("vit-pytorch", SMALL))
    checkpoint = read_checkpoint(path, image_size=(64, 96), trained_with=f"vit_pytorch=={release}")
    assert (checkpoint.config.bias_over_scale, checkpoint.config.activation) == (bias, activation)
    assert checkpoint.proven_if == ()
    assert read_checkpoint(path, image_size=(64, 96)).proven_if == (
        "the activation is hardswish",
        "the attention biases are divided by the scale",
    )


def test_a_release_before_the_names_is_refused(tmp_path):
    path = saved(tmp_path, foreign.state_of("vit-pytorch", SMALL))
    with pytest.raises(UsageError, match=r"0\.15\.0 .*of 0\.15\.2 and later"):
        read_checkpoint(path, trained_with="vit-pytorch==0.15.0")
    path = saved(tmp_path, foreign.state_of("timm", SMALL))
    with pytest.raises(UsageError, match=r"timm 0\.6\.13 .*names of timm, .*those of official"):
        read_checkpoint(path, trained_with="timm==0.6.13")
    path = saved(tmp_path, networks.trained().state_dict())
    with pytest.raises(UsageError, match=r"timm 1\.0\.31 .*names of official, .*those of timm"):
        read_checkpoint(path, trained_with="timm==1.0.31")


def test_a_release_of_another_library_is_refused(tmp_path):
    path = saved(tmp_path, foreign.state_of("vit-pytorch", SMALL))
    with pytest.raises(UsageError, match=r"--trained-with timm 0\.6\.13 .*vit-pytorch"):
        read_checkpoint(path, trained_with="timm==0.6.13")


def test_the_eps_given_is_the_one_computed_with(tmp_path):
    model = networks.trained(SMALL.replace(bn_eps=1e-3))
    path = saved(tmp_path, model.state_dict())
    expected = networks.float64_logits(model, networks.images())
    checkpoint = read_checkpoint(path, eps=1e-3)
    assert np.array_equal(logits(checkpoint), expected)
    assert not any("eps" in text for text in checkpoint.assumed)


# Another image size


def test_another_image_size_interpolates_the_biases_and_says_so(tmp_path):
    path = saved(tmp_path, networks.trained().state_dict())
    checkpoint = read_checkpoint(path, image_size=(96, 160))
    expected, config = resize(networks.trained(), SMALL, (96, 160))
    assert checkpoint.config == config
    x = networks.images(config)
    assert np.array_equal(logits(checkpoint, x), networks.float64_logits(expected, x))
    assert any(
        "96x160 instead of the 64x96" in text and "re-measure" in text and "interpolated" in text
        for text in checkpoint.assumed
    )


def test_another_size_with_as_many_tokens_is_said_to_be_another(tmp_path):
    hub_folder(tmp_path, SMALL, model_args={"img_size": [64, 96]})
    checkpoint = read_checkpoint(tmp_path, image_size=(63, 96))
    assert checkpoint.config.image_size == (63, 96)
    (text,) = [text for text in checkpoint.assumed if "63x96" in text]
    assert "re-measure" in text
    assert "interpolated" not in text


def test_the_size_trained_at_changes_nothing(tmp_path):
    path = saved(tmp_path, networks.trained().state_dict())
    checkpoint = read_checkpoint(path, image_size=(64, 96))
    assert not any("re-measure" in text for text in checkpoint.assumed)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 64},
        {"image_size": (64.0, 64.0)},
        {"image_size": (3, 64, 64)},
        {"image_size": (-64, 64)},
        {"image_size": [64, 64]},
        {"activation": "mish"},
        {"trained_size": [64, 64]},
        {"trained_with": "vit-pytorch"},
        {"trained_with": 3},
        {"eps": 0.0},
        {"eps": "1e-5"},
    ],
)
def test_options_of_no_sense_are_usage_errors(tmp_path, options):
    path = saved(tmp_path, networks.trained().state_dict())
    with pytest.raises(UsageError):
        read_checkpoint(path, **options)


def test_a_block_left_out_is_missed_in_every_family(tmp_path):
    deep = SMALL.replace(stages=(replace(SMALL.stages[0], depth=4), *SMALL.stages[1:]))
    for family, left_out in (
        ("official", "blocks.2."),
        ("timm", "stages.0.blocks.1."),
        ("transformers", "levit.encoder.stages.0.layers.2."),
        ("vit-pytorch", "backbone.0.layers.1."),
        ("mmpretrain", "backbone.stages.0.2."),
        ("LayerNorm variant", "blocks.2."),
    ):
        state = foreign.state_of(family, deep)
        less = {key: tensor for key, tensor in state.items() if not key.startswith(left_out)}
        assert len(less) < len(state)
        with pytest.raises(CheckpointError):
            read_checkpoint(saved(tmp_path, less), image_size=(64, 96))


def test_a_file_cast_as_a_whole_computes_with_the_right_biases(tmp_path):
    config = SMALL.replace(image_size=(272, 272))
    state = {k: t.bfloat16() for k, t in networks.trained(config).state_dict().items()}
    checkpoint = read_checkpoint(saved(tmp_path, state))
    assert checkpoint.config == config
    x = networks.images(config, 1)
    rounded = networks.trained(config).bfloat16().float()
    assert np.array_equal(logits(checkpoint, x), networks.float64_logits(rounded, x))


# Wrapped, and in other precisions


def test_an_error_in_a_foreign_file_explains_its_names(tmp_path):
    state = foreign.state_of("timm", SMALL)
    del state["stages.0.blocks.0.attn.proj.ln.linear.weight"]
    with pytest.raises(
        CheckpointError, match=r"blocks\.0\.m\.proj.*The file is in the layout of timm"
    ):
        read_checkpoint(saved(tmp_path, state), image_size=(64, 96))


def test_a_training_checkpoint_of_timm_is_read(tmp_path):
    state = foreign.state_of("timm", SMALL)
    average = foreign.state_of("timm", SMALL, seed=1)
    run = argparse.Namespace(model="levit_256", img_size=None, lr=1e-3)
    contents = {"epoch": 3, "arch": "levit_256", "state_dict": state, "args": run, "version": 2}
    path = saved(tmp_path, {**contents, "state_dict_ema": average, "optimizer": {"state": {}}})
    with pytest.raises(CheckpointError, match=r"--weights model .*--weights ema"):
        read_checkpoint(path, image_size=(64, 96))
    for weights, seed in (("model", 0), ("ema", 1)):
        checkpoint = read_checkpoint(path, weights=weights, image_size=(64, 96))
        expected = networks.float64_logits(networks.trained(seed=seed), networks.images())
        assert np.array_equal(logits(checkpoint), expected)
        assert checkpoint.weights == weights


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_other_precisions_load_and_are_said(family, dtype, tmp_path):
    state = {
        f"module.{key}": tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in foreign.state_of(family, SMALL).items()
    }
    checkpoint = read_checkpoint(saved(tmp_path, {"ema": state}), image_size=(64, 96))
    assert any(str(dtype) in text for text in checkpoint.assumed)
    config = SMALL.replace(**foreign.FAMILIES[family][1])
    assert checkpoint.config == config
    rounded = networks.trained(config).to(dtype).double()
    x = networks.images(config)
    tolerance = 1e-6 if dtype == torch.float64 else 1e-12  # float64 is rounded to float32
    expected = networks.float64_logits(rounded, x)
    assert np.abs(logits(checkpoint, x) - expected).max() < tolerance * np.abs(expected).max()


def test_wrong_indices_are_refused_in_every_family_that_stores_them(tmp_path):
    for family, suffix in (("official", "attention_bias_idxs"), ("vit-pytorch", "pos_indices")):
        state = foreign.state_of(family, SMALL)
        key = [key for key in state if key.endswith(suffix)][-1]
        state[key] = state[key].flip(0)
        with pytest.raises(CheckpointError, match="does not hold the offsets"):
            read_checkpoint(saved(tmp_path, state))


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
    with pytest.raises(UnsafeInputError, match="eval"):
        read_checkpoint(saved(tmp_path, {"model": state, "metric": eval}))


def test_objects_beside_the_weights_do_not_matter(tmp_path):
    state = networks.trained().state_dict()
    alone = read_checkpoint(saved(tmp_path, {"model": state}))
    beside = read_checkpoint(saved(tmp_path, {"model": state, "output_dir": tmp_path}))
    assert beside.assumed == alone.assumed
    for key, tensor in alone.model.state_dict().items():
        assert torch.equal(beside.model.state_dict()[key], tensor)


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
        ({"activation": "silu"}, "--activation silu was given.* with hardswish"),
        ({"image_size": (96, 64)}, "--image-size 96x64 was given.* with 64x96"),
        ({"weights": "ema"}, "--weights"),
    ],
)
def test_options_that_contradict_a_fused_file_are_usage_errors(fused_path, options, named):
    with pytest.raises(UsageError, match=named):
        read_checkpoint(fused_path, **options)


def test_a_fused_file_with_damaged_metadata_is_refused(tmp_path):
    metadata = Provenance(
        checkpoint_sha256="ab", config=SMALL, head="mean", layout="tokens"
    ).to_metadata()
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


# Networks without a head


HEADS = ("head.", "head_dist.", "classifier", "mlp_head.", "distill_head.")


@pytest.mark.parametrize("family", foreign.FAMILIES)
def test_a_network_without_a_head_gives_its_pooled_features(tmp_path, family):
    save, fixed = foreign.FAMILIES[family]
    config = SMALL.replace(image_size=(64, 64), **fixed)
    whole = networks.trained(config)
    state = {k: t for k, t in save(whole, config).items() if not k.startswith(HEADS)}
    checkpoint = read_checkpoint(saved(tmp_path, state), activation=config.activation)
    assert checkpoint.head == "none"
    assert checkpoint.config == config.replace(num_classes=0, distillation=False)
    x = networks.images(config).double()
    with torch.inference_mode():
        expected = whole.double().forward_features(x).numpy()
    np.testing.assert_allclose(logits(checkpoint, x), expected, rtol=1e-12)
    with pytest.raises(UsageError, match="without a head"):
        read_checkpoint(checkpoint.path, activation=config.activation, labels=["a"])


def test_half_a_head_is_a_missing_one(tmp_path):
    state = {k: t for k, t in networks.trained().state_dict().items() if not k.startswith("head.")}
    with pytest.raises(CheckpointError, match=r"no head\.l\.weight"):
        read_checkpoint(saved(tmp_path, state))


def test_the_config_of_a_levit_model_may_still_name_classes(tmp_path):
    path, _, _ = networks.golden("transformers")
    config = json.loads((path / "config.json").read_text())
    state = load_file(path / SAFETENSORS)
    headless = {
        k.removeprefix("levit."): t.clone() for k, t in state.items() if k.startswith("levit.")
    }
    save_file(headless, tmp_path / SAFETENSORS)
    names = {str(i): f"name {i}" for i in range(10)}
    config |= {"architectures": ["LevitModel"], "id2label": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.config.headless
    assert checkpoint.labels == ()
    config["architectures"] = ["LevitForImageClassification"]  # whose head is missing
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="classes: 10, but the tensors say 0"):
        read_checkpoint(tmp_path)


# What a training run states


def test_the_arguments_of_a_timm_run_are_followed(tmp_path):
    config = SMALL.replace(activation="gelu")
    model = networks.trained(config)
    arguments = {"model_kwargs": {"act_layer": "gelu", "img_size": [64, 96]}, "model": "levit_256d"}
    pictures = {"mean": [0.5], "std": [0.25], "crop_pct": 1.0, "interpolation": "bilinear"}
    path = saved(
        tmp_path,
        {
            "state_dict": foreign.timm(model, config),
            "args": argparse.Namespace(**arguments, **pictures),
        },
    )
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == config
    assert np.array_equal(logits(checkpoint), networks.float64_logits(model, networks.images()))
    assert str(checkpoint.preprocessing) == "crop 1.0, bilinear, mean 0.5, std 0.25"
    assert not checkpoint.preprocessing.assumed
    assert checkpoint.proven_if == ()
    assert "activation gelu, by args in a.pth" in checkpoint.stated
    checkpoint = read_checkpoint(path, activation="relu")
    assert checkpoint.proven_if == ("the activation is relu",)
    assert any("though args in a.pth says gelu" in text for text in checkpoint.assumed)


def test_a_run_of_a_trunk_may_tell_the_classes_of_another_head(tmp_path):
    trunk = networks.trained(SMALL.replace(num_classes=0, distillation=False)).state_dict()
    path = saved(tmp_path, {"model": trunk, "args": argparse.Namespace(nb_classes=4)})
    assert read_checkpoint(path).config.headless


def test_a_record_beside_the_weights_that_cannot_be_read_is_told(tmp_path):
    path = saved(tmp_path, networks.trained().state_dict())
    (tmp_path / "args.yaml").write_text(": [broken")
    told = "nothing is taken from args.yaml, which cannot be read"
    assert told in read_checkpoint(path).assumed


def test_a_record_beside_the_weights_that_contradicts_them_can_be_left(tmp_path):
    path = saved(tmp_path, foreign.timm(networks.trained(), SMALL))
    (tmp_path / "args.yaml").write_text("num_classes: 5")
    with pytest.raises(CheckpointError, match="move the weights to another folder") as refused:
        read_checkpoint(path, image_size=(64, 96))
    assert "layout of timm" not in str(refused.value)


def test_arguments_that_contradict_the_tensors_are_refused(tmp_path):
    state = networks.trained().state_dict()
    for arguments, reason in (
        ({"nb_classes": 5}, "args in a.pth says classes: 5, but the tensors say 7"),
        ({"model_kwargs": {"img_size": 224}}, "args in a.pth says that images are 224x224"),
    ):
        path = saved(tmp_path, {"model": state, "args": argparse.Namespace(**arguments)})
        with pytest.raises(CheckpointError, match=reason):
            read_checkpoint(path)


def test_a_network_saved_whole_tells_its_activation_and_eps(tmp_path):
    sizes = {"hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 2, 2], "depths": [1, 1, 1]}
    config = LevitConfig(image_size=64, num_labels=7, key_dim=[8, 8, 8], **sizes)
    model = LevitForImageClassification(config).eval()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Hardswish):
                setattr(module, name, torch.nn.ReLU())
            elif isinstance(child, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                child.eps = 1e-2
                torch.nn.init.normal_(child.weight)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    checkpoint = read_checkpoint(saved(tmp_path, {"model": model, "epoch": 3}))
    assert (checkpoint.config.activation, checkpoint.config.bn_eps) == ("relu", 1e-2)
    assert checkpoint.proven_if == ()
    with torch.inference_mode():
        expected = model.double()(images.double()).logits.numpy()
    assert np.abs(logits(checkpoint, images) - expected).max() < 1e-10 * np.abs(expected).max()
