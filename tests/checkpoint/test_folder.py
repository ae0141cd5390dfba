import json
import os

import pytest

from levit_deploy.checkpoint.folder import image_size_of, locate
from levit_deploy.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text('{"image_size": 96}')
    return tmp_path


def test_a_file_is_itself_and_has_no_config(folder):
    path = folder / "model.safetensors"
    assert locate(path) == ((path,), {})


def test_a_folder_is_its_weights_and_its_config(folder):
    files = (folder / "model.safetensors", folder / "config.json")
    assert locate(folder) == (files, {"image_size": 96})


def test_pickled_weights_are_found_and_safetensors_come_first(folder):
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    assert locate(folder)[0][0].name == "model.safetensors"
    (folder / "model.safetensors").unlink()
    assert locate(folder)[0][0].name == "pytorch_model.bin"


def test_a_folder_may_be_without_a_config(folder):
    (folder / "config.json").unlink()
    assert locate(folder) == ((folder / "model.safetensors",), {})


def test_what_transformers_says_of_pictures_is_read_too(folder):
    path = folder / "preprocessor_config.json"
    path.write_text('{"resample": 3}')
    files, config = locate(folder)
    assert files == (folder / "model.safetensors", folder / "config.json", path)
    assert config == {"image_size": 96, "preprocessor_config.json": {"resample": 3}}
    (folder / "config.json").unlink()
    files, config = locate(folder)
    assert files == (folder / "model.safetensors", path)
    assert config == {"preprocessor_config.json": {"resample": 3}}
    newer = folder / "processor_config.json"
    newer.write_text('{"image_processor": {}}')
    files, config = locate(folder)
    assert files == (folder / "model.safetensors", path, newer)
    assert config["processor_config.json"] == {"image_processor": {}}
    newer.unlink()
    path.write_text("[1]")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is .*: it is a list"):
        locate(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        locate(folder)


def paths(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "adapter such as LoRA.*Merge it"),
        ([".metadata", "__0_0.distcp"], "python -m torch.*format_utils dcp_to_torch .*weights.pth"),
        (["latest", "zero_to_fp32.py", "global_step9/x.pt"], "DeepSpeed.*zero_to_fp32.py .* weigh"),
        (["global_step9/mp_rank_00_model_states.pt"], "python -m deepspeed.utils.zero_to_fp32"),
        (["checkpoint-5/zero_to_fp32.py", "checkpoint-5/latest"], "this below it: checkpoint-5/"),
        (["levit.pdparams"], "PaddlePaddle.*paddle.load, transpose"),
        (
            ["checkpoint-500/model.safetensors", "checkpoint-900/pytorch_model.bin", "a.json"],
            "these below it: checkpoint-500/, checkpoint-900/. Give one of them",
        ),
        (
            ["checkpoint-5/model.safetensors.index.json"],
            "this below it: checkpoint-5/. Give .*-5",
        ),
        (
            ["model_best.pth.tar", "last.pth.tar", "args.yaml", "optimizer.pt"],
            "below it: last.pth.tar, model_best.pth.tar. Give one of them",
        ),
        (["checkpoints/last.ckpt", "hparams.yaml"], "this below it: checkpoints/last.ckpt. Give"),
        (["notes.txt"], "neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_a_folder_of_another_kind_says_what_to_give(tmp_path, names, advice):
    paths(tmp_path, *names)
    with pytest.raises(CheckpointError, match=advice):
        locate(tmp_path)


def test_a_folder_with_many_files_names_eight(tmp_path):
    paths(tmp_path, *(f"{number:02}.pth" for number in range(20)))
    with pytest.raises(CheckpointError, match=r"07\.pth and 12 more. Give one of them"):
        locate(tmp_path)


def test_a_folder_with_shards_is_its_index_and_its_shards(folder):
    (folder / "model.safetensors").rename(folder / "two.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "two.safetensors", "b": "one.safetensors"}}')
    shards = (index, folder / "one.safetensors", folder / "two.safetensors")
    assert locate(folder)[0] == (*shards, folder / "config.json")
    assert locate(index) == (shards, {})
    paths(folder, "model.safetensors")
    assert locate(folder)[0][0] == folder / "model.safetensors"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"levit"',
        b"\xff\xfe{",
        b"[" * 100_000,
        b'{"a": "' + b"x" * (1 << 20) + b'"}',
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_a_config_that_is_no_json_object_is_refused(folder, text):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json .*give the weights file alone"):
        locate(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_a_config_that_never_ends_is_refused(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="not a regular file"):
        locate(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="not a regular file"):
        locate(folder)


def test_a_config_may_be_a_link_to_a_file(folder):
    (folder / "config.json").rename(folder / "blob")
    (folder / "config.json").symlink_to(folder / "blob")  # as the hub's cache has it
    assert locate(folder)[1] == {"image_size": 96}


def test_a_config_that_cannot_be_read_is_refused(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        locate(folder)


@pytest.mark.parametrize(
    ("value", "size"),
    [(96, (96, 96)), ([64, 96], (64, 96)), ([3, 64, 96], (64, 96))],
)
def test_image_sizes(value, size):
    assert image_size_of(json.loads(json.dumps(value))) == size


@pytest.mark.parametrize(
    "value",
    [None, 0, -1, True, "224", 224.0, [], [224], [64, "96"], [64, 0], [1, 2, 3, 4], {}, 10**9],
)
def test_what_is_no_image_size_is_refused(value):
    with pytest.raises(CheckpointError, match="image size"):
        image_size_of(value)
