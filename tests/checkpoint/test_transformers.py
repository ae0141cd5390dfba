import pytest
from networks import GOLDENS

from levit_deploy.checkpoint import transformers
from levit_deploy.checkpoint.folder import locate
from levit_deploy.errors import CheckpointError


def test_the_golden_config_is_read():
    _, config = locate(GOLDENS / "transformers")
    known = transformers.known(config)
    assert (known.activation, known.image_size) == ("hardswish", (96, 96))


def test_the_activation_is_known_without_a_config():
    known = transformers.known({})
    assert (known.activation, known.image_size) == ("hardswish", None)


def test_both_sides_of_an_image_may_be_given():
    assert transformers.known({"image_size": [64, 96]}).image_size == (64, 96)


@pytest.mark.parametrize(
    ("field", "value"), [("kernel_size", 5), ("stride", 1), ("padding", 0), ("padding", "1")]
)
def test_another_stem_is_refused(field, value):
    with pytest.raises(CheckpointError, match=f"{field} is {value!r}"):
        transformers.known({"model_type": "levit", field: value})


def test_the_config_of_another_network_is_refused():
    with pytest.raises(CheckpointError, match="'vit'"):
        transformers.known({"model_type": "vit"})


def test_a_model_without_a_head_matches_and_has_the_head_missing():
    keys = ["patch_embeddings.embedding_layer_1.convolution.weight"]
    assert transformers.matches(keys)
    assert list(transformers.convert(dict.fromkeys(keys))) == ["patch_embed.0.c.weight"]


def test_the_config_states_the_architecture():
    stated = transformers.known(locate(GOLDENS / "transformers")[1]).stated
    assert stated == {
        "classes": 10,
        "input channels": 3,
        "stage widths": (16, 24, 32),
        "blocks a stage": (1, 1, 1),
        "attention heads a stage": (2, 3, 4),
    }
    stated = transformers.known(locate(GOLDENS / "transformers-single-head")[1]).stated
    assert stated["classifier heads"] == 1
    assert transformers.known({"num_labels": 7}).stated == {"classes": 7}
