import json
from pathlib import Path

import pytest
import torch
from networks import trained

from levit_deploy import pipeline
from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.errors import CheckpointError, InputError, UsageError
from levit_deploy.pictures.labels import in_order, read_labels
from levit_deploy.provenance import Provenance
from levit_deploy.targets.load import load_artifact

NAMES = ("tench, Tinca tinca", "Kühlschrank", "猫", "d", "e", "f", "g")


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({"model": trained().state_dict()}, tmp_path / "ckpt.pth")
    return tmp_path / "ckpt.pth"


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(NAMES),
        "\ufeff" + "\r\n".join(NAMES) + "\r\n\n",
        json.dumps(NAMES),
        json.dumps({str(i): name for i, name in reversed(list(enumerate(NAMES)))}),
    ],
)
def test_every_form_of_file_gives_the_same(tmp_path, text):
    path = tmp_path / "labels"
    path.write_bytes(text.encode())
    assert read_labels(path) == NAMES


SPECIAL = (
    "caf\u00e9 au\u00a0lait",
    "\u7d05\u3000\u732b",
    "\u0646\u06cc\u200c\u0645",
    "\U0001f469\u200d\U0001f680",
    "co\u00adop",
)


@pytest.mark.parametrize("text", ["\n".join(SPECIAL), json.dumps(SPECIAL)])
def test_what_languages_need_is_text(tmp_path, text):
    path = tmp_path / "labels"
    path.write_text(text, encoding="utf-8")
    assert read_labels(path) == SPECIAL


@pytest.mark.parametrize("first", ["[unk]", "{x}", "[", "[1] one"])
def test_a_name_may_begin_as_json_does(tmp_path, first):
    path = tmp_path / "labels"
    path.write_text(f"{first}\ncat\n")
    assert read_labels(path) == (first, "cat")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\x0cb\nc", "the label 'a.x0cb' for the class 0"),
        ("a\u2028b\nc".encode(), "the label 'a.u2028b' for the class 0"),
        ("a\u2029b\nc".encode(), "the label 'a.u2029b' for the class 0"),
        ("a\nb\u0085c".encode(), "the label 'b.x85c' for the class 1"),
        (b"a\rb\rc", "the label 'a.rb.rc' for the class 0"),
        (b'["\\ud800"]', "not a line of text"),
        (b"a\n\nc", "the label '' for the class 1"),
        (b"caf\xe9", "can't decode"),
        (b'["a", 2]', "the label '2' for the class 1"),
        (b'{"0": "a", "2": "c"}', "none of them for the class 1"),
        (b'["a\\u001b[31m"]', "not a line of text"),
        (b"[" * 100_000, "does not hold labels"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(tmp_path, content, expected):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.txt cannot be read: No such file"):
        read_labels(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("names", [3, "abc", [None], {"a": "b"}])
def test_other_kinds_of_value_are_no_labels(names):
    with pytest.raises(ValueError, match="label"):
        in_order(names)


def test_labels_given_win_and_every_kind_of_file_carries_them(tmp_path, checkpoint):
    loaded = read_checkpoint(checkpoint, labels=NAMES)
    assert loaded.labels == NAMES
    pipeline.fuse(loaded, tmp_path / "fused.safetensors")
    fused = read_checkpoint(tmp_path / "fused.safetensors")
    assert fused.labels == NAMES
    assert read_checkpoint(tmp_path / "fused.safetensors", labels=list("abcdefg")).labels[0] == "a"
    pipeline.export(fused, "onnx", tmp_path / "out.onnx")
    metadata = load_artifact(tmp_path / "out.onnx").metadata
    assert json.loads(metadata["labels"]) == list(NAMES)


def test_a_path_is_that_of_a_file(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("abcdefg").write_text("\n".join(NAMES))  # as many letters as there are classes
    for path in ("abcdefg", Path("abcdefg")):
        assert read_checkpoint(checkpoint, labels=path).labels == NAMES
    with pytest.raises(InputError, match="gfedcba cannot be read"):
        read_checkpoint(checkpoint, labels="gfedcba")


def test_torchscript_carries_them_too(checkpoint, tmp_path):
    from levit_deploy.passes import to_plain
    from levit_deploy.targets.torchscript_writer import to_torchscript

    loaded = read_checkpoint(checkpoint)
    provenance = Provenance(
        checkpoint_sha256="", config=loaded.config, head="mean", layout="tokens", labels=NAMES
    )
    (tmp_path / "out.pt").write_bytes(to_torchscript(to_plain(loaded.model), provenance))
    assert json.loads(load_artifact(tmp_path / "out.pt").metadata["labels"]) == list(NAMES)


def test_a_wrong_count_is_refused(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="6 labels were given, but the network tells 7 classes"):
        read_checkpoint(checkpoint, labels=NAMES[:6])
    with pytest.raises(UsageError, match="the label '' for the class 6"):
        read_checkpoint(checkpoint, labels=[*NAMES[:6], ""])
    loaded = read_checkpoint(checkpoint, labels=NAMES)
    pipeline.fuse(loaded, tmp_path / "fused.safetensors")
    data = (tmp_path / "fused.safetensors").read_bytes()
    fewer = data.replace(b'\\"f\\", \\"g\\"', b'\\"f and g\\" ')
    assert fewer != data
    (tmp_path / "fused.safetensors").write_bytes(fewer)
    with pytest.raises(CheckpointError, match=r"has 6 labels .* 7 classes in its tensors"):
        read_checkpoint(tmp_path / "fused.safetensors")
