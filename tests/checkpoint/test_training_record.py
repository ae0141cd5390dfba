import time

import pytest
import torch
import yaml

from levit_deploy.checkpoint.pickles.inert import Inert, Named
from levit_deploy.checkpoint.training_record import NO_RECORD, find_record

ARGUMENTS = {"model": "levit_256", "model_kwargs": {"act_layer": "gelu", "img_size": 96}}
CONFIG = """
custom = __import__('os').system('false')
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='LeViT', arch='256', act_cfg=dict(type='GELU'), img_size=64),
    head=dict({'type': 'LeViTClsHead'}, num_classes=7))
train_pipeline = [dict(type='RandomResizedCrop', scale=224)]
"""


def test_a_file_without_a_record_has_none(tmp_path):
    for contents in ({}, {"args": None}, {"args": "--model levit"}, {"meta": {"cfg": 3}}):
        assert find_record(contents, tmp_path / "a.pth") == NO_RECORD


@pytest.mark.parametrize("key", ["args", "hyper_parameters", "config"])
def test_arguments_within_others_are_found(tmp_path, key):
    record = find_record({key: ARGUMENTS, "epoch": 3}, tmp_path / "a.pth")
    assert record.arguments["act_layer"] == "gelu"
    assert record.arguments["img_size"] == 96
    assert record.arguments["model_kwargs"] == ARGUMENTS["model_kwargs"]
    assert record.source == f"{key} in a.pth"


def test_a_mapping_of_something_else_is_passed_over(tmp_path):
    optimizer = {"state": {0: {"step": 5}}, "param_groups": [{"lr": 0.1}]}
    contents = {"opt": optimizer, "config": {"lr": 0.1}, "hparams": ARGUMENTS}
    assert find_record(contents, tmp_path / "a.pth").source == "hparams in a.pth"


def test_the_outermost_argument_of_a_name_counts(tmp_path):
    arguments = {"model": {"act_layer": "relu", "img_size": 64}, "act_layer": "gelu"}
    record = find_record({"args": arguments | {"img_size": None}}, tmp_path / "a.pth")
    assert (record.arguments["act_layer"], record.arguments["img_size"]) == ("gelu", 64)


def test_the_arguments_of_a_teacher_are_not_the_networks(tmp_path):
    arguments = {"teacher_model": {"act_layer": "relu"}, "model": "levit_128s"}
    record = find_record({"args": arguments}, tmp_path / "a.pth")
    assert "act_layer" not in record.arguments


def test_a_record_within_itself_ends(tmp_path):
    arguments = dict(ARGUMENTS)
    arguments["self"] = arguments
    assert find_record({"args": arguments}, tmp_path / "a.pth").arguments["act_layer"] == "gelu"


def test_a_config_in_python_is_read_and_not_run(tmp_path):
    record = find_record({"meta": {"cfg": CONFIG}}, tmp_path / "a.pth")
    assert record.arguments["act_cfg"] == {"type": "GELU"}
    assert record.arguments["mean"] == [123.675, 116.28, 103.53]
    assert record.arguments["num_classes"] == 7
    assert record.arguments["custom"] == {}
    assert record.source == "meta.cfg in a.pth"


@pytest.mark.parametrize(
    "contents",
    [
        {"classes": ["cat", "dog"]},
        {"meta": {"dataset_meta": {"classes": ["cat", "dog"]}}},
        {"meta": {"classes": ["cat", "dog"]}, "args": ARGUMENTS},
    ],
)
def test_the_classes_beside_the_arguments_are_found(tmp_path, contents):
    record = find_record(contents, tmp_path / "a.pth")
    assert record.arguments["classes"] == ["cat", "dog"]
    assert record.source == ("args in a.pth" if "args" in contents else "a.pth")
    assert ("act_layer" in record.arguments) == ("args" in contents)


@pytest.mark.parametrize("text", ["model = dict(", "\0", "(" * 10_000, "-" * 5_000 + "1"])
def test_a_config_that_cannot_be_parsed_is_none(tmp_path, text):
    assert find_record({"meta": {"cfg": text}}, tmp_path / "a.pth") == NO_RECORD


@pytest.mark.parametrize(
    ("checkpoint", "file"),
    [
        ("a.pth.tar", "args.yaml"),
        ("a.ckpt", "hparams.yaml"),
        ("checkpoints/a.ckpt", "hparams.yaml"),
    ],
)
def test_arguments_beside_a_checkpoint_are_found(tmp_path, checkpoint, file):
    (tmp_path / file).write_text(yaml.safe_dump(ARGUMENTS))
    record = find_record({}, tmp_path / checkpoint)
    assert record.arguments["act_layer"] == "gelu"
    assert record.source == file
    own = find_record({"args": {"act_layer": "relu"}}, tmp_path / checkpoint)
    assert own.arguments == {"act_layer": "relu"}


@pytest.mark.parametrize(
    "text",
    [
        "model: [",
        "!!python/object/apply:os.system [false]",
        "just words",
        "a: &a [*a]",
        "x: " + "[" * 5_000,
        "é".encode("latin-1"),
        "a: !!bool maybe",
        "a: !!int ''",
        "a: !!timestamp never",
        "a: &a {x: 1}\nb: {<<: *a}",
    ],
)
def test_yaml_that_is_no_record_is_none(tmp_path, text):
    path = tmp_path / "args.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    record = find_record({}, tmp_path / "a.pth")
    assert record == NO_RECORD or record.arguments.keys() <= {"a", "x"}


def test_aliases_in_yaml_are_visited_once(tmp_path):
    lines = ["a0: &a0 {act_layer: gelu}"]
    for i in range(1, 5):
        entries = ", ".join(f"k{i}x{j}: *a{i - 1}" for j in range(2_000))
        lines.append(f"a{i}: &a{i} {{{entries}}}")
    (tmp_path / "args.yaml").write_text("\n".join(lines))
    assert find_record({}, tmp_path / "a.pth").arguments["act_layer"] == "gelu"


def test_a_folder_without_a_record_is_no_error(tmp_path):
    (tmp_path / "args.yaml").mkdir()
    assert find_record({}, tmp_path / "a.pth") == NO_RECORD


def endless(kind):
    """A list in a list twice, and that in another, so that it takes 2**60 words to print."""
    value = kind([3])
    for _ in range(60):
        value = kind([value, value])
    return value


@pytest.mark.parametrize("kind", [list, tuple, lambda parts: dict(enumerate(parts))])
def test_a_value_without_an_end_is_no_fact(tmp_path, kind):
    arguments = {"act_layer": "gelu", "model_kwargs": {"img_size": endless(kind)}}
    start = time.process_time()
    record = find_record({"args": arguments, "classes": endless(kind)}, tmp_path / "a.pth")
    assert len(str(record.arguments)) < 100_000
    assert record.arguments["act_layer"] == "gelu"
    assert time.process_time() - start < 1


def test_a_record_keeps_plain_data_alone(tmp_path):
    path = Inert(class_name="pathlib.PosixPath", arguments=("data",))
    kept = {"act_layer": Named("torch.nn.GELU"), "size": (3, 4.5), "names": {0: "cat"}}
    others = {"mean": torch.ones(3), "seed": 1 << 70, "files": ["x"] * 200_000, "std": {path: 1}}
    record = find_record({"args": kept | others}, tmp_path / "a.pth")
    assert record.arguments == kept | {"mean": None, "seed": None, "files": None, "std": {}}


def test_numbers_of_a_config_in_python_are_read_and_no_sets(tmp_path):
    text = "img_size = -3\nmean = [-0.5, +1, ~2]\nstd = {1, 2}\nact_layer = '\\d'\n"
    record = find_record({"meta": {"cfg": text}}, tmp_path / "a.pth")
    expected = {"img_size": -3, "mean": [-0.5, None, None], "std": None, "act_layer": "\\d"}
    assert record.arguments == expected
