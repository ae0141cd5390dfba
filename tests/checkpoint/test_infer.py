import dataclasses

import networks
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from levit_deploy.checkpoint.families.known import Known, facts
from levit_deploy.checkpoint.given import Given
from levit_deploy.checkpoint.infer import infer_config
from levit_deploy.checkpoint.strict import load_strictly
from levit_deploy.config import NORMS, TIMM_VARIANTS, VARIANTS
from levit_deploy.errors import CheckpointError, UsageError
from levit_deploy.model import LeViT

SMALL = networks.SMALL


def assumed(inferred):
    return [str(assumption) for assumption in inferred.assumed]


def meta_state(config):
    with torch.device("meta"):
        return LeViT(config).state_dict()


def small_state(**replacements):
    """SMALL's tensors; a replacement of None deletes, a tuple gives another shape."""
    state = LeViT(SMALL).state_dict()
    for name, value in replacements.items():
        key = name.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = torch.zeros(value)
    return state


def without_indices(state):
    return {key: value for key, value in state.items() if not key.endswith("_idxs")}


# The whole architecture comes back


@settings(deadline=None, max_examples=30)
@given(networks.configs())
def test_any_config_is_read_back_from_its_tensors(config):
    height, width = config.resolutions[0]
    assume(width > 1 or height == 1)  # a column of tokens has the same offsets as a row
    inferred = infer_config(LeViT(config).state_dict(), networks.known(config))
    assert inferred.config == config


@settings(deadline=None, max_examples=30)
@given(networks.configs(), st.data())
def test_any_config_is_read_back_when_the_image_size_is_stated(config, data):
    height, width = config.image_size  # one that the stem does not divide, too
    config = config.replace(
        image_size=(
            height - data.draw(st.integers(0, 1)),
            width - data.draw(st.integers(0, 1)),
        )
    )
    state = without_indices(LeViT(config).state_dict())
    known = dataclasses.replace(networks.known(config), image_size=config.image_size)
    assert infer_config(state, known).config == config


@settings(deadline=None, max_examples=30)
@given(networks.configs(), st.data())
def test_any_stride_is_read_back_up_to_others_with_the_same_grids(config, data):
    config = config.replace(
        downsamples=tuple(
            dataclasses.replace(down, stride=data.draw(st.integers(1, 4)))
            for down in config.downsamples
        )
    )
    state = LeViT(config).state_dict()
    inferred = infer_config(state, networks.known(config), Given(image_size=config.image_size))
    assert inferred.config.resolutions == config.resolutions
    same_strides = inferred.config.replace(downsamples=config.downsamples)
    assert same_strides == config


def test_an_unambiguous_stride_is_read():
    for stride in (1, 2, 3, 4):  # 12x12 tokens become 12x12, 6x6, 4x4, 3x3
        downs = tuple(dataclasses.replace(d, stride=stride) for d in SMALL.downsamples[:1])
        config = SMALL.replace(image_size=(192, 192), stages=SMALL.stages[:2], downsamples=downs)
        assert infer_config(LeViT(config).state_dict()).config == config


@pytest.mark.parametrize("name", VARIANTS)
def test_published_variant_is_recognised(name):
    state = without_indices(meta_state(VARIANTS[name]))
    config = infer_config(state).config
    assert config == VARIANTS[name]
    assert config.variant == name


def test_the_heads_are_counted():
    assert infer_config(small_state()).config.distillation
    one = LeViT(SMALL.replace(distillation=False)).state_dict()
    assert not infer_config(one).config.distillation


# What the tensors do not say


def test_assumptions_are_listed():
    inferred = infer_config(small_state())
    eps, activation, size = assumed(inferred)
    assert "eps is 1e-05" in eps
    assert "hardswish" in activation
    assert "64x96" in size
    assert "4x6" in size
    assert inferred.config.activation == "hardswish"


def test_what_is_given_is_not_assumed():
    inferred = infer_config(small_state(), given=Given(activation="gelu", image_size=(64, 96)))
    assert [text for text in assumed(inferred) if "eps" not in text] == []
    assert inferred.config.activation == "gelu"


def test_a_rectangle_is_read_from_the_indices():
    tall = SMALL.replace(image_size=(96, 64))
    assert infer_config(LeViT(tall).state_dict()).config.image_size == (96, 64)


def test_without_indices_a_square_is_assumed():
    square = SMALL.replace(image_size=(64, 64))
    inferred = infer_config(without_indices(LeViT(square).state_dict()))
    assert inferred.config == square


def test_without_indices_a_rectangle_asks_for_the_image_size():
    with pytest.raises(CheckpointError, match=r"for 24, then 6, then 2 tokens.*--image-size"):
        infer_config(without_indices(small_state()))


@pytest.mark.parametrize("size", [(224, 224), (96, 64)])
def test_an_image_size_that_does_not_fit_the_indices_is_left_to_the_caller(size):
    inferred = infer_config(small_state(), given=Given(image_size=size))
    assert inferred.config.image_size == (64, 96)
    assert any("64x96" in text for text in assumed(inferred))


def test_an_image_size_that_does_not_fit_a_square_is_left_to_the_caller():
    square = SMALL.replace(image_size=(64, 64))
    state = without_indices(LeViT(square).state_dict())
    assert infer_config(state, given=Given(image_size=(96, 96))).config == square


def test_an_image_size_that_does_not_fit_a_rectangle_is_refused():
    with pytest.raises(CheckpointError, match=r"24, then.*--image-size.*224x224 is not it"):
        infer_config(without_indices(small_state()), given=Given(image_size=(224, 224)))


def test_a_stated_image_size_must_fit():
    for state in (small_state(), without_indices(small_state())):
        known = Known(image_size=(96, 96))
        with pytest.raises(CheckpointError, match=r"config\.json.*96x96.*6x6 tokens.* 24"):
            infer_config(state, known)
    with pytest.raises(CheckpointError, match=r"config\.json"):  # the sides the wrong way round
        infer_config(small_state(), Known(image_size=(96, 64)))


def test_a_stated_image_size_is_not_assumed():
    inferred = infer_config(without_indices(small_state()), Known(image_size=(64, 96)))
    assert inferred.config.image_size == (64, 96)
    assert not any("image size" in text for text in assumed(inferred))


def test_a_usual_image_size_is_taken_where_it_fits():
    state = without_indices(small_state())
    assert infer_config(state, Known(usual_image_size=(64, 96))).config.image_size == (64, 96)
    inferred = infer_config(state, Known(usual_image_size=(224, 224)), Given(image_size=(96, 64)))
    assert inferred.config.image_size == (96, 64)  # nothing else fits
    inferred = infer_config(state, Known(usual_image_size=(64, 96)), Given(image_size=(96, 96)))
    assert inferred.config.image_size == (64, 96)  # which is then resized


def test_a_known_stride_is_not_assumed():
    config = SMALL.replace(image_size=(64, 64))  # 4x4, 2x2, 1x1: every stride leads from the last
    state = without_indices(LeViT(config).state_dict())
    assert any("stride behind stage 1 is 2" in text for text in assumed(infer_config(state)))
    assert not any("stride" in text for text in assumed(infer_config(state, Known(stride=2))))
    with pytest.raises(CheckpointError, match="16, then 4, then 1 tokens, which fit no"):
        infer_config(state, Known(stride=4))


def test_a_size_must_fit_every_stage():
    wide = SMALL.replace(image_size=(64, 144))  # 4x9, 2x5, 1x3 tokens: 36 would make a square
    state = without_indices(LeViT(wide).state_dict())
    with pytest.raises(CheckpointError, match="36, then 10, then 3 tokens, which fit no square"):
        infer_config(state)
    assert infer_config(state, given=Given(image_size=(64, 144))).config == wide
    usual = Known(usual_image_size=(96, 96))
    assert infer_config(state, usual, given=Given(image_size=(64, 144))).config == wide


def test_a_size_that_fits_is_the_size_trained_at():
    config = SMALL.replace(image_size=(64, 64), stages=SMALL.stages[:1], downsamples=())
    state = without_indices(LeViT(config).state_dict())
    for size in ((32, 128), (60, 60), (64, 64)):
        inferred = infer_config(state, given=Given(image_size=size))
        assert inferred.config == config.replace(image_size=size)
        assert not any("image size" in text for text in assumed(inferred))
    inferred = infer_config(state, given=Given(image_size=(96, 96)))
    assert inferred.config == config


def test_the_size_trained_at_can_be_given_beside_the_size_wanted():
    config = SMALL.replace(image_size=(128, 32), stages=SMALL.stages[:1], downsamples=())
    state = without_indices(LeViT(config).state_dict())
    given = Given(image_size=(64, 64), trained_size=(128, 32))
    assert infer_config(state, given=given).config == config
    assert infer_config(state, Known(image_size=(64, 64)), given).config == config
    with pytest.raises(UsageError, match=r"--trained-size 96x96 .*6x6 tokens.* 16 tokens"):
        infer_config(state, given=Given(trained_size=(96, 96)))


def test_an_assumed_square_is_decisive_if_another_grid_fits_every_stage():
    lone = SMALL.replace(image_size=(64, 64), stages=SMALL.stages[:1], downsamples=())
    inferred = infer_config(without_indices(LeViT(lone).state_dict()))
    (size,) = [each for each in inferred.assumed if "image size" in each.fact]
    assert size.decisive
    assert "1x16, 2x8, 8x2, 16x1 would fit" in size.reason
    three = SMALL.replace(image_size=(112, 112))  # 49, 16 and 4 tokens are squares only
    inferred = infer_config(without_indices(LeViT(three).state_dict()))
    (size,) = [each for each in inferred.assumed if "image size" in each.fact]
    assert not size.decisive


def test_a_config_that_says_otherwise_is_refused():
    told = facts(SMALL)
    assert infer_config(small_state(), Known(stated=told)).config == SMALL
    for name, value in told.items():
        wrong = (*value, 5) if isinstance(value, tuple) else value + 1
        with pytest.raises(CheckpointError, match=rf"config\.json says {name}: .*the tensors say"):
            infer_config(small_state(), Known(stated={name: wrong}))


def test_more_tokens_than_any_memory_holds_are_refused():
    with pytest.raises(CheckpointError, match=r"5000 tokens\. Expected at most 4096"):
        infer_config(small_state(blocks__0__m__attention_biases=(3, 5000)))


# Layers built another way


@pytest.mark.parametrize("name", TIMM_VARIANTS)
def test_timms_silu_variants_are_known_by_their_shapes(name):
    published = TIMM_VARIANTS[name]
    state = without_indices(meta_state(published))
    inferred = infer_config(state, Known(variants_activation=True))
    assert inferred.config == published
    assert inferred.config.activation == "silu"
    assert infer_config(state).config.activation == "hardswish"  # under the official names
    assert any("silu" in text and name in text for text in assumed(inferred))


def test_a_silu_variant_may_have_another_activation():
    published = TIMM_VARIANTS["levit_256d"]
    inferred = infer_config(
        without_indices(meta_state(published)),
        Known(variants_activation=True),
        given=Given(activation="hardswish"),
    )
    assert inferred.config == published.replace(activation="hardswish")


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_is_read_from_the_names(norm):
    inferred = infer_config(LeViT(SMALL.replace(norm=norm)).state_dict())
    assert inferred.config.norm == norm
    assert any("BatchNorm eps is" in text for text in assumed(inferred)) == (norm != "none")
    assert any("LayerNorm eps" in text for text in assumed(inferred)) == (norm == "layernorm")


def test_that_the_original_returns_both_heads_is_said():
    state = LeViT(SMALL).state_dict()
    both = infer_config(state, Known(averages_heads=False)).assumed
    assert any("mean of both heads" in text for text in map(str, both))
    assert not any("heads" in text for text in assumed(infer_config(state)))


@pytest.mark.parametrize("norm", ["batchnorm", "none"])
def test_heads_of_different_classes_are_refused(norm):
    state = LeViT(SMALL.replace(norm=norm)).state_dict()
    key = "head_dist.weight" if norm == "none" else "head_dist.l.weight"
    state[key] = torch.zeros(20, 18)
    with pytest.raises(CheckpointError, match=r"7 classes.* 20.*cannot be averaged"):
        infer_config(state)


# Broken shapes


@pytest.mark.parametrize(
    "key",
    [
        "patch_embed.0.c.weight",
        "blocks.0.m.attention_biases",
        "blocks.0.m.proj.1.c.weight",
        "blocks.4.attention_biases",
        "blocks.4.q.1.c.weight",
        "blocks.4.proj.1.c.weight",
        "head.l.weight",
    ],
)
def test_a_missing_tensor_is_named(key):
    state = small_state()
    del state[key]
    with pytest.raises(CheckpointError, match=f"no {key}".replace(".", r"\.")):
        infer_config(state)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("patch_embed.0.c.weight", (2, 3)),
        ("patch_embed.2.c.weight", (0, 2, 3, 3)),
        ("blocks.0.m.attention_biases", (24,)),
        ("blocks.0.m.attention_biases", (0, 24)),
        ("blocks.0.m.qkv.c.weight", (54, 12, 1)),
        ("blocks.1.m.0.c.weight", ()),
        ("blocks.4.q.1.c.weight", (20, 12, 1, 1)),
        ("head.l.weight", (7,)),
        ("head.l.weight", (0, 18)),
    ],
)
def test_a_tensor_of_another_rank_or_an_empty_one_is_named(key, shape):
    with pytest.raises(CheckpointError) as caught:
        infer_config(small_state(**{key.replace(".", "__"): shape}))
    assert key in str(caught.value)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "shape", "named"),
    [
        ("blocks.0.m.attention_biases", (4, 24), "blocks.0.m"),
        ("blocks.0.m.qkv.c.weight", (55, 12), "blocks.0.m.qkv"),
        ("blocks.0.m.qkv.c.weight", (30, 12), "blocks.0.m.qkv"),  # all values, no keys
        ("blocks.0.m.qkv.c.weight", (3, 12), "blocks.0.m.qkv"),  # fewer rows than values
        ("blocks.0.m.proj.1.c.weight", (12, 31), "blocks.0.m"),
        ("blocks.4.q.1.c.weight", (21, 12), "blocks.4.q.1"),
        ("blocks.4.proj.1.c.weight", (16, 61), "blocks.4.proj.1"),
        ("blocks.4.proj.1.c.weight", (16, 4), "blocks.4.proj.1"),  # fewer than the heads
    ],
)
def test_widths_that_do_not_divide_among_the_heads_are_refused(key, shape, named):
    with pytest.raises(CheckpointError) as caught:
        infer_config(small_state(**{key.replace(".", "__"): shape}))
    assert named in str(caught.value)
    assert "heads" in str(caught.value)


def test_a_block_of_an_unknown_kind_is_named():
    state = {key: value for key, value in small_state().items() if "blocks.1." not in key}
    state["blocks.1.m.conv.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"blocks\.1 is neither"):
        infer_config(state)


def test_a_gap_between_blocks_is_named():
    state = {key: value for key, value in small_state().items() if "blocks.2." not in key}
    with pytest.raises(CheckpointError, match=r"blocks\.2 is neither"):
        infer_config(state)


def test_no_blocks_at_all_is_no_levit():
    state = {key: value for key, value in small_state().items() if "blocks." not in key}
    with pytest.raises(CheckpointError, match="0 stages"):
        infer_config(state)


def test_a_trunk_that_ends_with_a_subsampling_is_no_levit():
    state = {
        key: value
        for key, value in small_state().items()
        if not key.startswith("blocks.") or int(key.split(".")[1]) <= 5
    }
    with pytest.raises(CheckpointError, match="1 stages and 1 subsamplings"):
        infer_config(state)


def test_a_trunk_that_starts_with_a_subsampling_is_no_levit():
    state = {
        key: value
        for key, value in small_state().items()
        if not key.startswith("blocks.") or int(key.split(".")[1]) == 4
    }
    renamed = {key.replace("blocks.4.", "blocks.0."): value for key, value in state.items()}
    with pytest.raises(CheckpointError, match=r"blocks\.0 subsamples"):
        infer_config(renamed)


def test_token_counts_that_no_stride_connects_are_refused():
    with pytest.raises(CheckpointError, match=r"24, then 5, then 2 tokens"):
        infer_config(small_state(blocks__6__m__attention_biases=(2, 5)))


def test_a_stem_of_another_width_than_the_first_stage_is_refused():
    with pytest.raises(CheckpointError, match="stem"):
        infer_config(small_state(patch_embed__6__c__weight=(13, 6, 3, 3)))


def test_a_block_number_of_absurd_length_is_no_block():
    absurd = small_state() | {f"blocks.{'9' * 5000}.m.x": torch.zeros(1)}
    assert infer_config(absurd) == infer_config(small_state())  # the strict loader refuses it


SMALL_KEYS = sorted(LeViT(SMALL).state_dict())
SHAPES = st.lists(st.integers(0, 30), max_size=5).map(tuple)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from(SMALL_KEYS), st.none() | SHAPES, min_size=1, max_size=3),
    st.integers(0, 1000),
)
def test_deleted_or_reshaped_tensors_raise_nothing_but_checkpoint_errors(changes, seed):
    generator = torch.Generator().manual_seed(seed)
    state = small_state()
    for key, shape in changes.items():
        dtype = state.pop(key).dtype
        if shape is not None and len(shape) <= 4:
            state[key] = torch.randint(0, 40, shape, generator=generator).to(dtype)
    try:
        inferred = infer_config(state)
        load_strictly(inferred.config, state)
    except CheckpointError:
        return
    needless = ("_idxs", "num_batches_tracked")
    assert all(key in state or key.endswith(needless) for key in changes)


SHAPING = [key for key in SMALL_KEYS if key.endswith(("c.weight", "l.weight", "biases"))]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SHAPING), st.integers(0, 3), st.integers(0, 64))
def test_one_side_of_another_length_is_another_network_or_a_checkpoint_error(key, axis, length):
    state = small_state()
    shape = list(state[key].shape)
    shape[axis % len(shape)] = length
    unchanged = shape == list(state[key].shape)
    state[key] = torch.zeros(shape)
    try:
        config = infer_config(state).config
        load_strictly(config, state)
    except CheckpointError:
        assert not unchanged
        return
    # Fewer, wider heads can have the same widths in all, so a changed file may fit exactly.
    assert {k: v.shape for k, v in meta_state(config).items()} == {
        k: v.shape for k, v in state.items()
    }
    assert unchanged == (config == SMALL)


def strided(stride):
    # 4x4 tokens to 2x2: strides 2 and 3 both leave that
    down = dataclasses.replace(SMALL.downsamples[0], stride=stride)
    return dataclasses.replace(
        SMALL, image_size=(64, 64), stages=SMALL.stages[:2], downsamples=(down,)
    )


def test_a_stride_that_shapes_leave_open_is_assumed_and_listed():
    state = LeViT(strided(3)).state_dict()
    without = {key: value for key, value in state.items() if not key.endswith("_idxs")}
    inferred = infer_config(without)
    assert inferred.config == strided(2)
    assert any(
        "stride behind stage 1 is 2" in text and "3 would" in text for text in assumed(inferred)
    )


@pytest.mark.parametrize("stride", [2, 3])
def test_stored_indices_tell_the_stride(stride):
    inferred = infer_config(LeViT(strided(stride)).state_dict())
    assert inferred.config == strided(stride)
    assert not any("stride" in text for text in assumed(inferred))
