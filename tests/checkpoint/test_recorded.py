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


def test_the_size_of_the_network_is_that_of_its_own_arguments():
    assert recorded(img_size=96, model_kwargs={"img_size": [64, 96]}).image_size == (64, 96)
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
