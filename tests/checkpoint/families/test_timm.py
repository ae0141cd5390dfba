import foreign
import networks
import pytest
import torch
from networks import SMALL

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.checkpoint.families import timm
from levit_deploy.errors import CheckpointError
from levit_deploy.pictures.preprocessing import Preprocessing


def hub(**fields):
    """A config.json as timm's ``save_for_hf`` writes it."""
    pretrained = {"input_size": [3, 224, 224], "crop_pct": 0.9, "mean": [0.485, 0.456, 0.406]}
    return {"architecture": "levit_256", "num_classes": 10, "pretrained_cfg": pretrained} | fields


@pytest.mark.parametrize(
    ("architecture", "activation"),
    [
        ("levit_256", "hardswish"),
        ("levit_conv_128s", "hardswish"),
        ("levit_256.fb_dist_in1k", "hardswish"),
        ("levit_256d", "silu"),
        ("levit_conv_384_s8", "silu"),
        ("levit_512.untrained", "silu"),
    ],
)
def test_the_architecture_tells_the_activation(architecture, activation):
    assert timm.known(hub(architecture=architecture)).activation == activation


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("hard_swish", "hardswish"), ("silu", "silu"), ("swish", "silu"), ("gelu", "gelu")],
)
def test_arguments_tell_the_activation_before_the_architecture_does(theirs, ours):
    for architecture in ("levit_256", "levit_256d"):
        config = hub(architecture=architecture, model_args={"act_layer": theirs})
        assert timm.known(config).activation == ours


def test_attention_may_have_its_own_activation():
    assert timm.known(hub()).attention_activation is None
    config = hub(model_args={"act_layer": "silu", "attn_act_layer": "gelu"})
    known = timm.known(config)
    assert (known.activation, known.attention_activation) == ("silu", "gelu")


@pytest.mark.parametrize("name", ["mish", "gelu_tanh", "", 3, ["silu"]])
def test_an_activation_without_a_counterpart_is_refused(name):
    with pytest.raises(CheckpointError, match="activation"):
        timm.known(hub(model_args={"act_layer": name}))


def test_model_args_fix_the_image_size_and_the_pretrained_config_does_not():
    known = timm.known(hub())
    assert (known.image_size, known.usual_image_size) == (None, (224, 224))
    known = timm.known(hub(model_args={"img_size": [64, 96]}))
    assert (known.image_size, known.usual_image_size) == ((64, 96), (224, 224))
    assert timm.known(hub(model_args={"img_size": 96})).image_size == (96, 96)


def test_older_configs_are_flat():
    config = {"architecture": "levit_256d", "num_classes": 10, "input_size": [3, 96, 96]}
    known = timm.known(config)
    assert (known.activation, known.usual_image_size) == ("silu", (96, 96))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_classes": 1000},
        {"architecture": None},
        {"architecture": "levit_future_9000"},
        {"architecture": "levitation", "model_args": None, "pretrained_cfg": None},
        {"model_type": "timm_wrapper", "model_args": {"act_layer": None, "img_size": None}},
    ],
)
def test_what_no_config_says_is_not_known(config):
    known = timm.known(config)
    assert (known.activation, known.image_size, known.stride) == (None, None, 2)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "deit_tiny_patch16_224"},
        {"model_type": "levit"},  # transformers'
        {"model_type": "vit"},
    ],
)
def test_the_config_of_another_network_is_refused(config):
    with pytest.raises(CheckpointError, match=r"config\.json is for '"):
        timm.known(config)


@pytest.mark.parametrize("field", ["model_args", "pretrained_cfg"])
@pytest.mark.parametrize("value", ["x", [1], 3, True])
def test_a_field_of_another_type_is_refused(field, value):
    with pytest.raises(CheckpointError, match=f"under {field!r}"):
        timm.known(hub(**{field: value}))


def test_a_named_variant_states_its_architecture():
    stated = timm.known(hub(architecture="levit_conv_256d.untrained")).stated
    assert stated["blocks a stage"] == (4, 8, 6)
    assert stated["stage widths"] == (256, 384, 512)
    assert stated["attention heads a stage"] == (4, 6, 8)
    assert stated["stem widths"] == (32, 64, 128, 256)
    assert stated["classes"] == 10


def test_arguments_that_change_a_variant_leave_it_to_the_tensors():
    for argument in ("embed_dim", "depth", "num_heads", "stem_type"):
        assert timm.known(hub(model_args={argument: 1})).stated == {"classes": 10}


def test_what_timm_has_fused_is_read_too():
    model = networks.trained(SMALL.replace(norm="none"))
    state = foreign.timm(model, SMALL)
    assert "stages.1.downsample.attn_downsample.q.ln.weight" in state
    assert timm.matches(state)
    converted = timm.convert(state)
    original = model.state_dict()
    assert all(torch.equal(tensor, original[key]) for key, tensor in converted.items())
    assert original.keys() - converted.keys() == {k for k in original if k.endswith("_idxs")}


def test_the_config_states_what_becomes_of_pictures():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert timm.known({}).preprocessing == Preprocessing(
        crop_fraction=0.9, interpolation="bicubic", mean=mean, std=std
    )
    own = {"crop_pct": 0.95, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
    expected = Preprocessing(
        crop_fraction=0.95,
        interpolation="bilinear",
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        assumed=False,
    )
    assert timm.known(hub(pretrained_cfg=own)).preprocessing == expected
    assert timm.known({"architecture": "levit_256", **own}).preprocessing == expected  # older
    own |= {"crop_pct": 1, "crop_mode": "center", "interpolation": None}
    found = timm.known(hub(pretrained_cfg=own)).preprocessing
    assert (found.crop_fraction, found.interpolation, found.unsupported) == (1, "bicubic", "")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("crop_pct", 90, "the crop is 90 of a side"),
        ("interpolation", "random", "the interpolation is 'random'"),
        ("mean", [124, 116, 104], "the mean is"),
        ("std", "none", "the std is 'none'"),
    ],
)
def test_nonsense_about_pictures_is_refused(field, value, expected):
    with pytest.raises(CheckpointError, match=rf"^config\.json has .* makes no sense: {expected}"):
        timm.known(hub(pretrained_cfg={field: value}))


def test_another_way_to_crop_is_known_and_left_to_whoever_gives_pictures():
    for mode in ("other", ["center"], 3):
        found = timm.known(hub(pretrained_cfg={"crop_mode": mode})).preprocessing
        assert found.unsupported == f"config.json says crop_mode: {mode}"
        assert not found.assumed
        assert (found.crop_fraction, found.resize) == (0.875, "cover")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("squash", "stretch, bilinear"),
        ("border", "border, bilinear"),
        ("center", "crop 1.0, bilinear"),
        ("", "crop 1.0, bilinear"),
    ],
)
def test_every_crop_mode_of_timm_has_our_words(mode, words):
    own = {"crop_mode": mode, "crop_pct": 1.0, "interpolation": "bilinear"}
    found = timm.known(hub(pretrained_cfg=own)).preprocessing
    assert str(found).startswith(f"{words}, mean")
    assert not found.unsupported
    partly = timm.known(hub(pretrained_cfg={**own, "crop_pct": 0.9})).preprocessing
    assert (partly.crop_fraction, partly.resize) == (0.9, found.resize)


def test_what_a_config_leaves_out_is_not_what_timm_has_for_its_own():
    for silent in ({"mean": [0.5] * 3}, {}):
        for config in (hub(pretrained_cfg=silent), {"architecture": "levit_256", **silent}):
            assert timm.known(config).preprocessing.crop_fraction == 0.875
    assert timm.known({"pretrained_cfg": {"mean": [0.5] * 3}}).preprocessing.crop_fraction == 0.875
    by_hand = {"model_args": {"img_size": [64, 96]}}
    assert timm.known(by_hand).preprocessing.crop_fraction == 0.9


def test_labels_are_names_or_what_describes_them_all():
    names, described = ["n01", "n02"], {"n01": "tench", "n02": "goldfish"}
    assert timm.known(hub(label_names=names)).labels == ("n01", "n02")
    everything = hub(label_names=names, label_descriptions=described)
    assert timm.known(everything).labels == ("tench", "goldfish")
    some = hub(label_names={"0": "n01", "1": "n02"}, label_descriptions={"n01": "tench"})
    assert timm.known(some).labels == ("n01", "n02")
    older = {"architecture": "levit_256d", "labels": names}
    assert timm.known(older).labels == ("n01", "n02")
    inside = {"architecture": "levit_256", "pretrained_cfg": {"label_names": names}}
    assert timm.known(inside).labels == ("n01", "n02")
    assert timm.known(hub()).labels == ()
    placeholders = hub(model_type="timm_wrapper", label_names=["LABEL_0", "LABEL_1"])
    assert timm.known(placeholders).labels == ()
    with pytest.raises(CheckpointError, match=r"the label '7' for the class 1.* Correct it"):
        timm.known(hub(label_names=["a", 7]))


def test_what_the_logits_mean_is_read():
    assert timm.known(hub()).problem_type == "single_label_classification"
    wrapped = hub(model_type="timm_wrapper", problem_type="multi_label_classification")
    assert timm.known(wrapped).problem_type == "multi_label_classification"


@pytest.mark.parametrize("prefix", ["model.", ""], ids=["wrapped", "flattened"])
def test_both_names_of_features_only_are_read(tmp_path, prefix):
    """FeatureGetterNet of timm wraps the network, FeatureListNet flattens the first level."""
    config = SMALL.replace(image_size=(64, 64))
    whole = networks.trained(config)
    state = {}
    for key, tensor in foreign.timm_conv(whole, config).items():
        if not key.startswith("head"):
            key = prefix + key if prefix else key.replace(".", "_", 1)
            state[key] = tensor
    assert prefix or "stem_conv1.linear.weight" in state
    torch.save(state, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert (checkpoint.family, checkpoint.head) == ("timm", "none")
    x = networks.images(config)
    with torch.inference_mode():
        assert torch.equal(checkpoint.model(x), whole.forward_features(x))
