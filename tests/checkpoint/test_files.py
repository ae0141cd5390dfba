import argparse
import fractions
import hashlib
import io
import os
import pickle
import time
import zipfile
import zlib
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from levit_deploy.checkpoint.files import read_file
from levit_deploy.errors import CheckpointError, UnsafeInputError
from levit_deploy.targets.torchscript_writer import deprecation_accepted

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([7, 8])}


def zipped(contents):
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


class Runs:
    """Unpickled, it runs a shell command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


# Files that are read


def test_torch_zip_gives_its_tensors(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": TENSORS, "epoch": 3}, path)
    file = read_file(path)
    assert file.path == path
    assert file.metadata == {}
    assert file.contents["epoch"] == 3
    assert file.contents["model"].keys() == TENSORS.keys()
    assert all(torch.equal(file.contents["model"][key], TENSORS[key]) for key in TENSORS)


def test_safetensors_give_their_tensors_and_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path, metadata={"who": "me"})
    file = read_file(path)
    assert file.metadata == {"who": "me"}
    assert file.contents.keys() == TENSORS.keys()
    assert all(torch.equal(file.contents[key], TENSORS[key]) for key in TENSORS)


def test_safetensors_without_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    assert read_file(path).metadata == {}


def test_the_first_bytes_decide_and_not_the_name(tmp_path):
    torch.save(TENSORS, tmp_path / "torch.safetensors")
    save_file(TENSORS, tmp_path / "safe.pth", metadata={"who": "me"})
    assert read_file(tmp_path / "torch.safetensors").contents.keys() == TENSORS.keys()
    assert read_file(tmp_path / "safe.pth").metadata == {"who": "me"}


@pytest.mark.parametrize("name", ["official", "official-training-run"])
def test_sha256_is_that_of_the_bytes(name):
    path, _, _ = networks.golden(name)
    assert read_file(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_sha256_of_safetensors_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    assert read_file(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_namespace_of_plain_values_is_allowed(tmp_path):
    args = argparse.Namespace(lr=1e-3, model="LeViT_256", opt_betas=None)
    torch.save({"model": TENSORS, "args": args}, tmp_path / "a.pth")
    contents = read_file(tmp_path / "a.pth").contents
    assert contents.keys() == {"model", "args"}
    assert not isinstance(contents["args"], argparse.Namespace)  # nobody needs it here


@pytest.mark.parametrize(
    "value",
    [np.float64(1.5), np.float32(2), np.int64(3), np.bool_(True), np.dtype("float16")],
    ids=repr,
)
def test_numpy_scalars_and_dtypes_are_allowed(tmp_path, value):
    torch.save({"model": TENSORS, "metric": [value]}, tmp_path / "a.pth")
    assert read_file(tmp_path / "a.pth").contents["model"].keys() == TENSORS.keys()


def test_what_one_file_is_allowed_is_not_left_allowed_in_torch(tmp_path):
    torch.save({"model": TENSORS, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    read_file(tmp_path / "a.pth")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


# Files that are none


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pth does not exist"):
        read_file(tmp_path / "none.pth")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is not a regular file"):
        read_file(tmp_path)


def test_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_file(tmp_path / "file" / "a.pth")


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"x",
        b"hello, I am a text file",
        b'{"config": 1}',
        b"\x00" * 20,
        b"PK\x05\x06" + b"\x00" * 18,  # an empty zip
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, contents):
    (tmp_path / "a.pth").write_bytes(contents)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_file(tmp_path / "a.pth")


def test_a_legacy_pickle_is_refused_unread(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="bare pickle"):
        read_file(path)


def test_a_torchscript_program_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    with deprecation_accepted():
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(CheckpointError, match="TorchScript program"):
        read_file(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointError, match=r"exactly one data\.pkl"):
        read_file(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("contents", "kind"), [([torch.zeros(2)], "list"), (torch.zeros(2), "Tensor"), (None, "None")]
)
def test_a_torch_file_that_holds_no_dict_is_refused(tmp_path, contents, kind):
    torch.save(contents, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"holds a {kind}"):
        read_file(tmp_path / "a.pth")


# Damage


ZIPPED = zipped(TENSORS)


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(4, len(ZIPPED) - 1))
def test_a_truncated_torch_file_is_refused(tmp_path, length):
    (tmp_path / "a.pth").write_bytes(ZIPPED[:length])
    with pytest.raises(CheckpointError):
        read_file(tmp_path / "a.pth")


def test_a_truncated_golden_says_what_to_do(tmp_path):
    path, _, _ = networks.golden("official")
    (tmp_path / "a.pth").write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_file(tmp_path / "a.pth")


@pytest.mark.parametrize("length", [9, 20, 100, -1, -24])
def test_a_truncated_safetensors_file_is_refused(tmp_path, length):
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_file(path)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, len(ZIPPED) - 1), st.integers(0, 255))
def test_one_wrong_byte_is_never_a_raw_error(tmp_path, position, byte):
    (tmp_path / "a.pth").write_bytes(ZIPPED[:position] + bytes([byte]) + ZIPPED[position + 1 :])
    try:
        contents = read_file(tmp_path / "a.pth").contents
    except (CheckpointError, UnsafeInputError):
        return
    assert isinstance(contents, dict)


# Code


def test_a_file_that_runs_code_is_refused_and_nothing_runs(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    torch.save({"model": TENSORS, "extra": Runs(f": > '{canary}'")}, path)
    with pytest.raises(UnsafeInputError, match=r"posix\.system.*Nothing was run"):
        read_file(path)
    assert not canary.exists()

    torch.load(path, weights_only=False)  # the file would have done it
    assert canary.exists()


def test_code_hidden_in_a_namespace_is_refused_and_does_not_run(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    torch.save({"model": TENSORS, "args": argparse.Namespace(x=Runs(f": > '{canary}'"))}, path)
    with pytest.raises(UnsafeInputError, match=r"posix\.system"):
        read_file(path)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_protocol_hides_code(tmp_path, protocol):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    torch.save({"extra": Runs(f": > '{canary}'")}, path, pickle_protocol=protocol)
    with pytest.raises(UnsafeInputError, match=r"posix\.system"):
        read_file(path)
    assert not canary.exists()


def test_an_allowed_class_cannot_be_changed_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(argparse.Namespace, "canary", 0, raising=False)
    state = b"N}X\x06\x00\x00\x00canaryK\x01s\x86"  # (None, {"canary": 1})
    program = b"\x80\x02}K\x00cargparse\nNamespace\n" + state + b"bs."  # {0: Namespace}, built
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(io.BytesIO(ZIPPED)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, program if name.endswith("/data.pkl") else source.read(name))
    with pytest.raises(CheckpointError):
        read_file(path)
    assert argparse.Namespace.canary == 0

    torch.load(path, weights_only=False)  # the file would have done it
    assert argparse.Namespace.canary == 1


def test_every_suspicious_name_is_told_and_no_other(tmp_path):
    contents = {"a": Runs("true"), "b": eval, "c": Path("x"), "d": fractions.Fraction(1, 2)}
    torch.save(contents, tmp_path / "a.pth")
    with pytest.raises(
        UnsafeInputError, match=r"would run: __builtin__\.eval, posix\.system\. Exp"
    ):
        read_file(tmp_path / "a.pth")


def test_a_legacy_file_that_runs_code_does_not_run(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": Runs(f": > '{canary}'")}, protocol=2))
    with pytest.raises(CheckpointError, match="bare pickle"):
        read_file(path)
    assert not canary.exists()


def test_a_tensor_named_like_a_torchscript_constant_is_no_program(tmp_path):
    torch.save({"constants.pkl": torch.zeros(2)}, tmp_path / "a.pth")
    assert "constants.pkl" in read_file(tmp_path / "a.pth").contents


# Archives and pickles made to hurt: refused before anything is built


def resaved(path, change=lambda _name, data: data, compression=zipfile.ZIP_STORED):
    """The same archive with some members changed."""
    buffer = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", compression) as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member)))
    return path


@pytest.fixture
def pth(tmp_path):
    torch.save({"model": TENSORS}, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def test_a_rewritten_archive_is_read_as_before(pth):
    assert read_file(resaved(pth)).contents["model"].keys() == TENSORS.keys()


def test_compressed_members_are_refused(pth):
    with pytest.raises(CheckpointError, match="members are compressed"):
        read_file(resaved(pth, compression=zipfile.ZIP_DEFLATED))


def test_an_archive_without_checksums_is_read(tmp_path):
    path = tmp_path / "a.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": TENSORS}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_file(path).contents["model"]["a"], TENSORS["a"])


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_a_path_is_honest_in_every_python(pth, module):
    path = f"c{module}\nPosixPath\n(X\x01\0\0\0atR".encode()
    pickled = b"\x80\x02}X\x01\0\0\0p" + path + b"s."
    file = read_file(resaved(pth, lambda name, data: pickled if ".pkl" in name else data))
    assert file.contents["p"].class_name == f"{module}.PosixPath"


def test_a_member_that_claims_more_than_its_bytes_is_refused(pth):
    """Else, the numbers that it lacks would be those that lay in memory."""
    with zipfile.ZipFile(pth) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/1"))
    data = bytearray(pth.read_bytes())
    entry = data.rfind(name.encode()) - 46  # of the directory
    compressed, size = entry + 20, entry + 24
    data[entry + 16 : entry + 20] = zlib.crc32(b"").to_bytes(4, "little")
    data[compressed:size] = bytes(4)
    pth.write_bytes(data)
    with pytest.raises(CheckpointError, match="members are compressed"):
        read_file(pth)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(pth):
    with zipfile.ZipFile(pth, "a") as archive:
        archive.writestr("A/DATA/0", b"x")
        archive.writestr("a/data/0", b"x")
    with pytest.raises(CheckpointError, match="two members have one name"):
        read_file(pth)


def test_two_pickles_are_refused(pth):
    with zipfile.ZipFile(pth, "a") as archive:
        archive.writestr("other/Data.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match=r"exactly one data\.pkl"):
        read_file(pth)


@pytest.mark.parametrize("change", [lambda data: data[:-4], lambda data: data + b"1234"])
def test_storages_of_another_size_are_refused(pth, change):
    with pytest.raises(CheckpointError, match="record size"):
        read_file(resaved(pth, lambda name, data: change(data) if "/data/" in name else data))


def bomb(name):
    """A pickle that costs little to write and much to follow."""
    nested = b"(K\x01tq\x00"
    for level in range(60):
        nested += b"h" + bytes([level]) + b"\x86q" + bytes([level + 1])
    chain = b"c_codecs\nencode\nq\x00X\x04\x00\x00\x00abcdX\x06\x00\x00\x00latin1\x86R"
    for _ in range(40):
        chain += b"q\x01h\x00h\x01X\x05\x00\x00\x00- HeX\x86R"
    return {
        "a hash of nested tuples": b"}" + nested + b"K\x01s.",
        "a doubling codec": chain + b".",
        "a long array": b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x40\x85R.",
        "a large tensor": b"ctorch\nFloatTensor\n\x8a\x05\x00\x00\x00\x00\x40\x85R.",
        "many lists": b"]" * 3_000_000 + b".",
        "many integers": b"(" + b"K\x01" * 250_000 + b"l.",
    }[name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a doubling codec", "holds a _codecs.encode"),
        ("a long array", "holds a builtins.bytearray"),
        ("a large tensor", "holds a torch.FloatTensor"),
        ("many lists", "more than 2097152 steps"),
        ("many integers", "holds a list"),
    ],
)
def test_bombs_are_refused_at_once(pth, name, reason):
    path = resaved(pth, lambda member, data: b"\x80\x02" + bomb(name) if ".pkl" in member else data)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=reason):
        read_file(path)
    assert time.process_time() - start < 10


def test_nested_tuples_are_never_hashed(pth):
    pickled = b"\x80\x02" + bomb("a hash of nested tuples")
    path = resaved(pth, lambda member, data: pickled if ".pkl" in member else data)
    assert [str(key) for key in read_file(path).contents] == ["<builtins.tuple>"]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_file(tmp_path / "pipe")


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"{}" + b" " * 10,
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1099511627776, 1099511627776], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 99999999]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
        b'{"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": ' + b"[" * 100_000 + b"}",
        b'{"__metadata__": 3}',
        b"{" + b'"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},' * 2 + b"}",
    ],
)
def test_bad_safetensors_headers_are_refused(tmp_path, header):
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"12345678")
    with pytest.raises(CheckpointError, match="safetensors file but cannot be read"):
        read_file(path)


@pytest.mark.parametrize("length", [0, 2**62, 2**63, 2**64 - 1])
def test_a_header_of_absurd_length_is_refused(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + b"1" * 100)
    with pytest.raises(CheckpointError):
        read_file(path)


# Files of another kind, with the next step


@pytest.mark.parametrize("wrapped", [True, False])
def test_an_adapter_is_to_be_merged_first(tmp_path, wrapped):
    state = {"base_model.model.qkv.lora_A.weight": torch.ones(2, 2)}
    if wrapped:
        torch.save({"model": state}, tmp_path / "a")
    else:
        save_file(state, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"adapter .*lora_A\.weight.*merge_and_unload"):
        read_file(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "advice"),
    [("levit.pdparams", "PaddlePaddle.*running_mean"), ("__0_0.distcp", "Give its folder")],
)
def test_a_file_of_another_library_is_named(tmp_path, name, advice):
    (tmp_path / name).write_bytes(pickle.dumps({"w": np.ones(2)}, 4))
    with pytest.raises(CheckpointError, match=advice):
        read_file(tmp_path / name)
