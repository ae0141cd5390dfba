import pytest
import torch
from networks import golden

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.checkpoint.block_names import block_names

NAMES = {
    "official": ("patch_embed.2", "blocks.0.m", "blocks.2", "head and head_dist"),
    "timm": (
        "stem.conv2",
        "stages.0.blocks.0.attn",
        "stages.1.downsample.attn_downsample",
        "head and head_dist",
    ),
    "transformers-single-head": (
        "levit.patch_embeddings.embedding_layer_2",
        "levit.encoder.stages.0.layers.0.module",
        "levit.encoder.stages.0.layers.2",
        "classifier",
    ),
    "vit-pytorch": (
        "conv_embedding.1",
        "backbone.0.layers.0.0",
        "backbone.1.layers.0.0",
        "mlp_head and distill_head",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_block_has_the_name_its_family_gives_it(name):
    checkpoint = read_checkpoint(golden(name)[0])
    names = checkpoint.block_names
    blocks = ["patch_embed.2", "blocks.0", "blocks.2", "head"]
    assert tuple(names[block] for block in blocks) == NAMES[name]
    assert {f"blocks.{i}" for i in range(len(checkpoint.model.blocks))} < names.keys()
    assert len(set(names.values())) == len(names)


def test_a_block_without_a_tensor_of_its_own_in_the_file_has_no_name():
    theirs, made = torch.ones(2), torch.ones(2)
    names = block_names({"a.b.w": theirs}, {"blocks.0.x": theirs, "blocks.1.x": made})
    assert names == {"blocks.0": "a.b"}


def test_tensors_with_nothing_in_common_leave_the_canonical_name():
    one, two = torch.ones(2), torch.ones(2)
    names = block_names({"a.w": one, "b.w": two}, {"blocks.0.x": one, "blocks.0.y": two})
    assert names == {"blocks.0": "blocks.0"}
