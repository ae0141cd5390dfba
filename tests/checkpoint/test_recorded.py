import pytest

from levit_deploy.checkpoint.families.known import NOTHING, Known
from levit_deploy.checkpoint.recorded import with_record
from levit_deploy.checkpoint.training_record import TrainingRecord
from levit_deploy.errors import CheckpointError
from levit_deploy.pictures.preprocessing import Preprocessing

TIMM = {  # train.py's own defaults
    "model": "levit_256",
    "img_size": None,
    "crop_pct": None,
    "interpolation": "",
    "mean": None,
    "std": None,
}
HALF = (0.5, 0.5, 0.5)


def recorded(family="timm", known=NOTHING, **arguments):
    return with_record(known, TrainingRecord(arguments, "args in a.pth"), family)


def test_no_record_changes_nothing():
    assert recorded() == NOTHING


@pytest.mark.parametrize(
    ("arguments", "activation"),
    [
        ({"act_layer": "gelu"}, "gelu"),
        ({"act_layer": "hard_swish"}, "hardswish"),
        ({"act_layer": "torch.nn.modules.activation.ReLU"}, "relu"),
        ({"act_cfg": {"type": "Swish"}}, "silu"),
        ({"activation": "relu"}, "relu"),
        ({"activation": "sigmoid"}, None),  # of the logits
        ({"model": "levit_256d"}, "silu"),
        ({"model": "hf-hub:timm/levit_conv_256.fb_dist_in1k"}, "hardswish"),
        ({"model": "levit_256d", "act_layer": "relu"}, "relu"),
        ({"model": "resnet50"}, None),
    ],
)
def test_the_activation_of_a_run_is_known(arguments, activation):
    known = recorded(**arguments)
    assert known.activation == activation
    words = f"activation {activation}, by args in a.pth"
    assert known.told == ((words,) if activation else ())


def test_the_variants_activation_is_of_timms_names_only():
    assert recorded("official", model="levit_256d").activation is None


def test_attention_keeps_hardswish_under_official_names():
    assert recorded("official", act_layer="gelu").attention_activation == "hardswish"
    assert recorded("timm", act_layer="gelu").attention_activation is None
    known = recorded("timm", act_layer="gelu", attn_act_layer="silu")
    assert known.attention_activation == "silu"


@pytest.mark.parametrize("name", ["mish", "gelu_tanh", "leaky_relu", 3])
def test_an_activation_that_is_not_supported_is_refused_by_name(name):
    with pytest.raises(CheckpointError, match=rf"args in a\.pth says .*{name}.*--activation"):
        recorded(act_layer=name)


def test_a_config_and_the_familys_code_come_first():
    known = Known(activation="silu", image_size=(64, 64), stated={"classes": 5})
    read = recorded(known=known, act_layer="gelu", model_kwargs={"img_size": 96}, num_classes=7)
    assert (read.activation, read.image_size, read.stated) == ("silu", (64, 64), {"classes": 5})


def test_a_contradiction_names_the_place_of_the_facts():
    config = Known(stated={"classes": 5}, image_size=(64, 64))
    assert recorded(known=config, num_classes=7).source == "config.json"
    assert recorded(num_classes=7).source == "args in a.pth"
    sizes = recorded(known=Known(stated={"classes": 5}), model_kwargs={"img_size": 96})
    assert sizes.source == "config.json or args in a.pth"


def test_the_size_of_the_network_is_that_of_its_own_arguments():
    assert recorded(img_size=96, model_kwargs={"img_size": [64, 96]}).image_size == (64, 96)
    # as timm's train.py reads --model-kwargs img_size=64,96
    assert recorded(model_kwargs={"img_size": (64, 96)}).image_size == (64, 96)
    with pytest.raises(CheckpointError, match=r"args in a\.pth says .*'large'"):
        recorded(model_kwargs={"img_size": "large"})
    known = recorded(img_size=96)
    assert (known.image_size, known.usual_image_size) == (None, (96, 96))
    assert recorded(input_size=[3, 64, 96], img_size=32).usual_image_size == (64, 96)
    assert recorded(image_size="large").usual_image_size is None


def test_the_pictures_of_timms_train():
    usual = Preprocessing(crop_fraction=0.9, assumed=False)
    assert recorded(**TIMM).preprocessing == usual
    given = {"crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.5], "std": list(HALF)}
    assert recorded(**TIMM | given | {"crop_mode": "squash"}).preprocessing == Preprocessing(
        crop_fraction=1.0,
        interpolation="bilinear",
        mean=(0.5,),
        std=HALF,
        resize="stretch",
        assumed=False,
    )


def test_the_pictures_of_the_official_main():
    known = recorded("official", data_set="IMNET", input_size=224)
    assert known.preprocessing == Preprocessing(assumed=False)


def test_statistics_alone_leave_the_rest_assumed_of_the_family():
    known = recorded("official", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    assert known.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    assert known.preprocessing.std == pytest.approx((0.229, 0.224, 0.225))
    assert recorded("official", mean=HALF).preprocessing.assumed
    assert recorded("official", mean="imagenet", std="imagenet").preprocessing.assumed


def test_a_network_without_pooling_is_refused():
    for arguments in ({"gp": ""}, {"global_pool": ""}):
        with pytest.raises(CheckpointError, match="does not pool"):
            recorded(**arguments)


def test_counts_must_agree_with_the_tensors():
    assert recorded(num_classes=7, in_chans=1).stated == {"classes": 7, "input channels": 1}
    assert recorded(nb_classes=7, num_classes=None).stated == {"classes": 7}
    assert recorded(num_classes="seven").stated == {}


def test_mmengine_counts_in_its_head():
    head = {"type": "LeViTClsHead", "num_classes": 3, "in_channels": 384}
    read = recorded("mmpretrain", head=head, num_classes=1000, in_channels=384)
    assert read.stated == {"classes": 3}


EDGE = {"type": "ResizeEdge", "scale": 256, "edge": "short", "backend": "pillow"}
CROP = {"type": "CenterCrop", "crop_size": 224}


@pytest.mark.parametrize(
    ("pipeline", "words", "unsupported"),
    [
        ([{**EDGE, "interpolation": "bicubic"}, CROP], "crop 0.875, bicubic", ""),
        ([EDGE, {"type": "PackInputs"}], "crop 1.0, bilinear", ""),
        ([{"type": "Resize", "scale": [224, 224], "backend": "pillow"}], "stretch, bilinear", ""),
        ([{"type": "Resize", "scale": 224}], "stretch, bilinear", "Resize"),
        (
            [{"type": "Resize", "scale": 224, "keep_ratio": True, "backend": "pillow"}],
            "stretch, bilinear",
            "keep_ratio",
        ),
        ([EDGE, {**CROP, "efficientnet_style": True}], "crop 0.875, bilinear", "efficientnet"),
        ([CROP], "crop 0.875, bicubic", "resizing"),
        ([{**EDGE, "edge": "long"}, CROP], "crop 0.875, bilinear", "long"),
        ([EDGE, {"type": "TenCrop"}], "crop 1.0, bilinear", "TenCrop"),
        ([EDGE, {"type": "CenterCrop", "crop_size": 288}], "crop 0.875, bilinear", "ResizeEdge"),
    ],
)
def test_the_pictures_of_mmengine(pipeline, words, unsupported):
    statistics = {"mean": [127.5, 127.5, 127.5], "std": [51, 51, 51], "to_rgb": True}
    read = recorded("mmpretrain", test_pipeline=pipeline, **statistics).preprocessing
    assert str(read) == f"{words}, mean 0.5 0.5 0.5, std 0.2 0.2 0.2"
    assert unsupported in read.unsupported
    assert bool(unsupported) == bool(read.unsupported)
    for blue_first in (False, None):  # as mmengine has it if a config is silent
        bgr = recorded("mmpretrain", test_pipeline=pipeline, **statistics | {"to_rgb": blue_first})
        assert "to_rgb" in bgr.preprocessing.unsupported


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ({"classes": ("cat", "dog")}, ("cat", "dog")),
        ({"class_to_idx": {"dog": 1, "cat": 0}}, ("cat", "dog")),
        ({"idx_to_class": {0: "cat", 1: "dog"}}, ("cat", "dog")),
        ({"classes": 7, "class_names": "names.txt", "class_to_idx": {"cat": 5}}, ()),
    ],
)
def test_the_names_of_the_classes(arguments, labels):
    assert recorded("official", **arguments).labels == labels
    own = Known(labels=("a", "b"))
    assert recorded("official", own, **arguments).labels == ("a", "b")
