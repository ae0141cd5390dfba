import dataclasses
import json
from collections.abc import Callable
from typing import Any

import networks
import pytest
from hypothesis import given, settings

from levit_deploy.config import VARIANTS, LeViTConfig, Stage, subsampled

SMALL = networks.SMALL


def changed(part: str, index: int, **changes: Any) -> Callable[[], LeViTConfig]:
    """SMALL with one stage or downsampling changed, built when called."""

    def build() -> LeViTConfig:
        parts = list(getattr(SMALL, part))
        parts[index] = dataclasses.replace(parts[index], **changes)
        return SMALL.replace(**{part: tuple(parts)})

    return build


@pytest.mark.parametrize("name", VARIANTS)
def test_published_variant_knows_its_name(name):
    assert VARIANTS[name].variant == name


@pytest.mark.parametrize("name", VARIANTS)
def test_fine_tuned_variant_keeps_its_name(name):
    tuned = VARIANTS[name].replace(
        num_classes=37,
        in_channels=1,
        image_size=(384, 256),
        distillation=False,
        activation="silu",
        bn_eps=1e-3,
    )
    assert tuned.variant == name


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("stages", "depth", 5),
        ("stages", "num_heads", 5),
        ("stages", "key_dim", 17),
        ("stages", "value_dim", 17),
        ("stages", "mlp_dim", 0),
        ("downsamples", "num_heads", 3),
        ("downsamples", "key_dim", 17),
        ("downsamples", "value_dim", 17),
        ("downsamples", "mlp_dim", 0),
        ("downsamples", "stride", 3),
    ],
)
def test_one_changed_width_makes_a_variant_custom(part, field, value):
    published = VARIANTS["LeViT-256"]
    parts = list(getattr(published, part))
    parts[0] = dataclasses.replace(parts[0], **{field: value})
    assert published.replace(**{part: tuple(parts)}).variant == "custom"


def test_another_stem_makes_a_variant_custom():
    assert VARIANTS["LeViT-256"].replace(stem_dims=(64, 128, 256)).variant == "custom"


def test_levit_256_is_the_network_of_the_paper():
    published = VARIANTS["LeViT-256"]
    assert published.stem_dims == (32, 64, 128, 256)
    assert [stage.dim for stage in published.stages] == [256, 384, 512]
    assert [stage.num_heads for stage in published.stages] == [4, 6, 8]
    assert [(down.num_heads, down.value_dim) for down in published.downsamples] == [
        (8, 128),
        (12, 128),
    ]
    assert published.resolutions == ((14, 14), (7, 7), (4, 4))


@settings(deadline=None, max_examples=30)
@given(networks.configs())
def test_json_gives_back_the_same_config_and_the_same_bytes(config):
    text = config.to_json()
    again = LeViTConfig.from_json(text)
    assert again == config
    assert hash(again) == hash(config)
    assert again.to_json() == text


def test_json_holds_every_field_in_sorted_order():
    fields = json.loads(SMALL.to_json())
    assert list(fields) == sorted(field.name for field in dataclasses.fields(LeViTConfig))
    assert fields["image_size"] == [64, 96]
    assert fields["stages"][1] == dataclasses.asdict(SMALL.stages[1])
    assert "\n" not in SMALL.to_json()


def test_json_keeps_an_awkward_eps_exactly():
    config = SMALL.replace(bn_eps=0.1 + 0.2)
    assert LeViTConfig.from_json(config.to_json()).bn_eps == 0.1 + 0.2


def test_json_in_another_order_reads_the_same():
    fields = json.loads(SMALL.to_json())
    text = json.dumps(dict(reversed(fields.items())), indent=2)
    assert LeViTConfig.from_json(text).to_json() == SMALL.to_json()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", "{}", '{"image_size": 5}', '{"stages": [1]}']
)
def test_text_that_is_no_config_raises_what_from_json_documents(text):
    with pytest.raises((ValueError, TypeError, KeyError)):
        LeViTConfig.from_json(text)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: SMALL.replace(stages=(), downsamples=()), "downsampling"),
        (lambda: SMALL.replace(downsamples=SMALL.downsamples[:1]), "downsampling"),
        (lambda: SMALL.replace(downsamples=SMALL.downsamples * 2), "downsampling"),
        (lambda: SMALL.replace(stem_dims=()), "stem"),
        (lambda: SMALL.replace(stem_dims=(2, 4, 6, 13)), "stem"),
        (lambda: SMALL.replace(activation="mish"), "mish"),
        (lambda: SMALL.replace(activation=""), "activation"),
        (lambda: SMALL.replace(image_size=(0, 96)), "positive"),
        (lambda: SMALL.replace(image_size=(64, -1)), "positive"),
        (lambda: SMALL.replace(in_channels=0), "positive"),
        (lambda: SMALL.replace(num_classes=-1), "positive"),
        (lambda: SMALL.replace(num_classes=0), "two heads"),
        (lambda: SMALL.replace(stem_dims=(0, 4, 6, 12)), "positive"),
        (changed("stages", 1, dim=0), "positive"),
        (changed("stages", 1, depth=0), "positive"),
        (changed("stages", 1, num_heads=0), "positive"),
        (changed("stages", 1, key_dim=0), "positive"),
        (changed("stages", 1, value_dim=0), "positive"),
        (changed("stages", 1, mlp_dim=-1), "positive"),
        (changed("downsamples", 1, num_heads=0), "positive"),
        (changed("downsamples", 1, key_dim=0), "positive"),
        (changed("downsamples", 1, value_dim=0), "positive"),
        (changed("downsamples", 1, stride=0), "positive"),
        (changed("downsamples", 1, mlp_dim=-1), "positive"),
        (lambda: SMALL.replace(bn_eps=0.0), "bn_eps"),
        (lambda: SMALL.replace(bn_eps=-1e-5), "bn_eps"),
        (lambda: SMALL.replace(bn_eps=float("nan")), "bn_eps"),
        (lambda: SMALL.replace(bn_eps=float("inf")), "bn_eps"),
    ],
)
def test_impossible_config_is_refused_with_the_reason(build, reason):
    with pytest.raises(ValueError, match=reason):
        build()


@pytest.mark.parametrize("size", [(), (64,), (64, 96, 3)])
def test_image_size_without_exactly_two_sides_is_refused(size):
    with pytest.raises(ValueError, match="image"):
        SMALL.replace(image_size=size)


def test_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.num_classes = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.stages[0].dim = 3


def test_replace_leaves_the_original_alone():
    assert SMALL.replace(num_classes=3).num_classes == 3
    assert SMALL.num_classes == 7


@pytest.mark.parametrize("side", range(1, 20))
@pytest.mark.parametrize("stride", range(1, 6))
def test_subsampled_counts_the_rows_and_columns_that_slicing_keeps(side, stride):
    rows, columns = range(side), range(side + 3)
    assert subsampled((side, side + 3), stride) == (len(rows[::stride]), len(columns[::stride]))


def test_resolutions_of_a_rectangular_image_that_does_not_divide():
    config = SMALL.replace(image_size=(65, 97))  # 33x49, 17x25, 9x13, 5x7 behind the stem
    assert config.resolutions == ((5, 7), (3, 4), (2, 2))


def test_a_single_stage_needs_no_downsampling():
    config = SMALL.replace(
        stages=(Stage(dim=12, depth=1, num_heads=1, key_dim=1, value_dim=1, mlp_dim=0),),
        downsamples=(),
    )
    assert config.resolutions == ((4, 6),)


def test_a_grid_too_large_for_attention_is_refused():
    assert dataclasses.replace(SMALL, image_size=(1024, 1024)).resolutions[0] == (64, 64)
    with pytest.raises(ValueError, match="4160 tokens"):
        dataclasses.replace(SMALL, image_size=(1024, 1040))
