import json
import subprocess

import networks
import pytest
import torch
from safetensors.torch import save_file

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.checkpoint.shards import read_shards, shards_of
from levit_deploy.errors import CheckpointError

FORMATS = {"model.safetensors.index.json": save_file, "pytorch_model.bin.index.json": torch.save}


def sharded(folder, state, name="model.safetensors.index.json", **other):
    """The state in two files, and the index."""
    names = sorted(state)
    weight_map = {key: f"{1 + (i % 2)}-of-2{name[:6]}" for i, key in enumerate(names)}
    for shard in set(weight_map.values()):
        part = {key: state[key].contiguous() for key in names if weight_map[key] == shard}
        FORMATS[name](part, folder / shard)
    (folder / name).write_text(json.dumps({"weight_map": weight_map | other}))
    return folder / name


@pytest.mark.parametrize("name", FORMATS)
def test_shards_are_one_checkpoint(tmp_path, name):
    state = networks.trained().state_dict()
    index = sharded(tmp_path, state, name)
    checkpoint = read_checkpoint(tmp_path)
    assert [path.name for path in checkpoint.files] == [name, *(p.name for p in shards_of(index))]
    for key, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, state[key])


def test_sha256_is_that_of_the_sums_of_the_files(tmp_path):
    index = sharded(tmp_path, {"a": torch.ones(1), "b": torch.zeros(2)})
    names = [index.name, *(path.name for path in shards_of(index))]
    sums = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True)
    total = subprocess.run(["sha256sum"], input=sums.stdout, capture_output=True, check=True)
    assert read_shards(index).sha256 == total.stdout.split()[0].decode()


def test_an_index_and_shards_that_disagree_are_refused(tmp_path):
    state = {"a": torch.ones(1), "b": torch.zeros(2)}
    index = sharded(tmp_path, state, c="1-of-2model.")
    with pytest.raises(CheckpointError, match="lacks c, and"):
        read_shards(index)
    index = sharded(tmp_path, state)
    save_file(state, tmp_path / "1-of-2model.")
    with pytest.raises(CheckpointError, match="has b, too"):
        read_shards(index)
    (tmp_path / "1-of-2model.").unlink()
    with pytest.raises(CheckpointError, match=r"names 1-of-2model\., which is not beside it"):
        read_shards(index)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": "/etc/hostname"}}',
        '{"weight_map": {"a": "sub/model.safetensors"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": ""}}',
        "[" * 100_000,
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="not an index of shards"):
        read_checkpoint(tmp_path)
