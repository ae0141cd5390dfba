"""Reading pickles, held to the values that Python and torch wrote."""

import argparse
import collections
import datetime
import decimal
import enum
import functools
import math
import pickle
import random
import struct
import sys
import types
from contextlib import suppress
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch

from levit_deploy.checkpoint.files import read_file
from levit_deploy.checkpoint.pickles.allowance import MAX_STEPS, Allowance
from levit_deploy.checkpoint.pickles.inert import Inert, Named, attributes
from levit_deploy.checkpoint.pickles.unpickle import Unpickler


def read(data):
    return Unpickler(data, lambda _id: None, Allowance()).load()


class Color(enum.Enum):
    RED = 1


class Meter:
    def __init__(self):
        self.best, self.losses = 91.2, [1.0, 0.5]

    def update(self):
        pass


class Slotted:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 3


class Config(dict):
    """As AttributeDict, ConfigDict and their like."""


class Listed(list):
    pass


class WithKeywords:
    def __new__(cls, *, size):
        made = super().__new__(cls)
        made.size = size
        return made

    def __getnewargs_ex__(self):
        return (), {"size": self.size}


PLAIN = {
    "none": None,
    "numbers": [0, -1, 255, 65536, -(2**40), 2**100, 1.5, -0.0, math.inf, True, False],
    "texts": ["", "a", "é", "\U0001f600", "x" * 300, "line\nbreak"],
    "bytes": [b"", b"abc", bytes(range(256)), b"x" * 300],
    "nested": {"a": [1, {"b": (1, 2, 3, 4)}, ()], 3: {1: 2}, None: [[]]},
    "sets": [{1, 2}, set(), frozenset("ab")],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_are_as_pickle_has_them(name, protocol):
    value = PLAIN[name]
    assert read(pickle.dumps(value, protocol)) == value


def test_a_value_that_holds_itself():
    value = []
    value.append(value)
    read_back = read(pickle.dumps(value))
    assert read_back[0] is read_back


HONEST = {
    "namespace": argparse.Namespace(lr=1e-3, model="LeViT_128S"),
    "simple namespace": types.SimpleNamespace(model="LeViT_128S"),
    "path": PurePosixPath("/data/run"),
    "datetime": datetime.datetime(2024, 1, 2),
    "timedelta": datetime.timedelta(seconds=3),
    "decimal": decimal.Decimal("1.5"),
    "defaultdict": collections.defaultdict(list, {"model": [1]}),
    "deque": collections.deque([1, 2], maxlen=3),
    "counter": collections.Counter("aab"),
    "ordered": collections.OrderedDict(model=1),
    "partial": functools.partial(int, base=2),
    "enum": Color.RED,
    "object": Meter(),
    "slots": Slotted(),
    "dict": Config(model="LeViT_128S"),
    "list": Listed([1, 2]),
    "keywords": WithKeywords(size=3),
    "bound method": Meter().update,
    "function": math.sqrt,
    "class": torch.nn.GELU,
    "numpy array": np.arange(3.0),
    "numpy object array": np.array([None, "a"], dtype=object),
    "numpy state": np.random.RandomState(0).get_state(),
    "numpy generator": np.random.default_rng(0),
    "python state": random.Random(0).getstate(),
    "complex": 1j,
    "bytearray": bytearray(b"ab"),
    "range": range(3),
    "slice": slice(1, 2),
    "ellipsis": ...,
    "exception": ValueError("x"),
    "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1),
    "generator": torch.Generator().get_state(),
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "size": torch.Size([1, 2]),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", HONEST)
def test_what_training_runs_save_is_no_reason_to_refuse_weights(tmp_path, name, protocol):
    contents = {"model": {"w": torch.arange(3.0)}, "extra": HONEST[name]}
    torch.save(contents, tmp_path / "a.pth", pickle_protocol=protocol)
    read_back = read_file(tmp_path / "a.pth").contents
    assert torch.equal(read_back["model"]["w"], torch.arange(3.0))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_objects_keep_their_named_values(protocol):
    def named(value):
        return attributes(read(pickle.dumps(value, protocol)))

    assert named(HONEST["namespace"]) == {"lr": 1e-3, "model": "LeViT_128S"}
    assert named(HONEST["simple namespace"]) == {"model": "LeViT_128S"}
    assert named(HONEST["object"]) == {"best": 91.2, "losses": [1.0, 0.5]}
    assert named(HONEST["slots"]) == {"value": 3}
    assert named(HONEST["dict"]) == {"model": "LeViT_128S"}
    assert named(HONEST["defaultdict"]) == {"model": [1]}
    assert named(HONEST["keywords"])["size"] == 3
    assert named({"a": 1, 2: 3}) == {"a": 1}
    assert named(3) == {}


def test_an_inert_keeps_what_it_was_given():
    path = read(pickle.dumps(HONEST["path"], 4))
    assert path.class_name == "pathlib.PurePosixPath"
    assert path.arguments == ("/", "data", "run")
    assert read(pickle.dumps(HONEST["list"], 4)).elements == [1, 2]
    assert read(pickle.dumps(math.sqrt, 4)) == Named("math.sqrt")
    assert str(path) == "<pathlib.PurePosixPath>"


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "kind", ["f2", "f4", "f8", ">f8", "i1", "i4", "i8", "u2", "u8", "?"], ids=str
)
def test_numpy_scalars_are_numbers(kind, protocol):
    value = np.array([1], kind)[0]
    number = read(pickle.dumps(value, protocol))
    assert type(number) in (int, float, bool)
    assert number == value


def test_a_numpy_scalar_of_another_kind_is_inert():
    assert isinstance(read(pickle.dumps(np.datetime64("2024-01-01"))), Inert)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(6)[2:5],
        torch.zeros(0, 3),
        torch.tensor(3, dtype=torch.int16),
        torch.ones(1).expand(4),
        torch.tensor([True, False]),
        torch.tensor([1.5], dtype=torch.bfloat16),
        torch.tensor([1, 2], dtype=torch.uint16),
        torch.tensor([1.0], dtype=torch.float8_e4m3fn),
        torch.tensor([1 + 2j]),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=lambda tensor: f"{tensor.dtype}{tuple(tensor.shape)}",
)
def test_tensors_are_as_torch_saved_them(tmp_path, tensor, protocol):
    torch.save({"t": tensor}, tmp_path / "a.pth", pickle_protocol=protocol)
    ours = read_file(tmp_path / "a.pth").contents["t"]
    assert ours.dtype == tensor.dtype
    assert ours.stride() == tensor.stride()
    assert not ours.requires_grad
    assert torch.equal(ours.to(torch.complex64), tensor.detach().to(torch.complex64))


def test_a_tensor_with_attributes(tmp_path):
    tensor = torch.ones(2)
    tensor.no_decay = True
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.no_decay = True
    torch.save({"a": tensor, "b": parameter}, tmp_path / "a.pth")
    contents = read_file(tmp_path / "a.pth").contents
    assert torch.equal(contents["a"], tensor)
    assert torch.equal(contents["b"], torch.ones(2))


def test_shared_storages_are_shared(tmp_path):
    whole = torch.arange(4.0)
    torch.save({"a": whole, "b": whole[1:]}, tmp_path / "a.pth")
    contents = read_file(tmp_path / "a.pth").contents
    contents["a"][1] = 9
    assert contents["b"][0] == 9


@pytest.mark.parametrize("kind", [float, np.float64], ids=lambda kind: kind.__name__)
def test_100_000_stored_losses_are_read(kind):
    losses = [kind(1 / (step + 1)) for step in range(100_000)]
    assert read(pickle.dumps(losses, 2)) == losses


# Instructions made to hurt


def test_the_number_of_steps_is_bounded():
    with pytest.raises(ValueError, match=f"more than {MAX_STEPS} steps"):
        read(b"\x80\x02" + b"N" * (MAX_STEPS + 1) + b".")


def nested():
    """A tuple of a tuple twice, sixty times over: nothing may look at every part."""
    program = b"(K\x01t\x94"
    for level in range(60):
        program += b"h" + bytes([level]) + b"\x86\x94"
    return program


@pytest.mark.parametrize(
    "program",
    [
        b"}" + nested() + b"Ns.",  # a key
        b"\x8f(" + nested() + b"\x90.",  # an element of a set
        b"(" + nested() + b"\x91.",  # of a frozenset
        b"cbuiltins\nset\n(" + nested() + b"l\x85R.",
        nested() + b"\x8c\x01x\x93.",  # a module's name
        b"\x8c\x01x" + nested() + b"\x93.",
        b"c_codecs\nencode\n" + nested() + b"\x8c\x06latin1\x86R.",
        b"c_codecs\nencode\n\x8c\x01x" + nested() + b"\x86R.",
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n" + nested() + b"\x85RC\x01a\x86R.",
        b"cbuiltins\ngetattr\nN" + nested() + b"\x86R.",
        nested() + b"Q.",
        b"ca\nb\n" + nested() + b"R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n" + nested() + b"R.",
    ],
)
def test_tuples_without_end_are_never_followed(program):
    with suppress(ValueError, TypeError):  # what ends at once is refused, or inert
        made = read(b"\x80\x04" + program)
        assert len(str(made) if isinstance(made, Inert) else type(made).__name__) < 100


def test_integers_of_one_hash_are_no_keys():
    modulus = sys.hash_info.modulus
    program = b"".join(
        b"\x8a\x0c" + (modulus * count).to_bytes(12, "little") + b"Ns" for count in range(1, 30_000)
    )
    keys = read(b"\x80\x02}" + program + b".")  # one by one, they would take half a minute
    assert all(isinstance(key, Inert) for key in keys)


def test_a_text_encoded_again_and_again_is_encoded_once():
    text = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"\x94"
    call = b"h\x01h\x00\x8c\x06latin1\x86R"
    program = b"\x80\x04" + text + b"c_codecs\nencode\n\x940](" + call * 3000 + b"e."
    values = read(program)
    assert len(values) == 3000
    assert all(value is values[0] for value in values)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"\x8b" + struct.pack("<i", 300) + b"\x01" * 300 + b".", "integer of more than 255"),
        (b"Np99999999999\n.", "remembers more"),
        (b"c" + b"a." * 300 + b"a\nb\n.", "name of more than 500"),
        (b"K\x01K\x02a.", "appends to a int"),
        (b"K\x01K\x02K\x03s.", "sets an item of a int"),
        (b"K\x01)R.", "calls a int"),
        (b"ca\nb\nK\x01R.", "without arguments"),
        (b"cbuiltins\nint\n}b.", "changes a Named"),
        (b"\x97.", "instruction NEXT_BUFFER"),
    ],
)
def test_instructions_that_no_checkpoint_needs_are_told(program, reason):
    with pytest.raises(ValueError, match=reason):
        read(b"\x80\x05" + program)


def test_calls_of_what_was_called_have_a_short_name():
    chain = b"cmodule\nClass\n)R" + b")R" * 1_000 + b"."
    assert read(chain).class_name == "module.Class()"


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_set_as_a_key_is_inert(protocol):
    (key,) = read(pickle.dumps({frozenset({1, 2}): 3}, protocol))
    assert isinstance(key, Inert)
    assert set(*key.arguments) == {1, 2}


def test_an_inert_takes_anything():
    """Classes, results and results of results are called, built, and given items and elements."""
    cls, call = b"ca\nB\n", b"(K\x01K\x02tR"
    state, items, elements = b"}\x8c\x01xK\x01sb", b"(\x8c\x01yK\x02u", b"(K\x03K\x04e"
    made = read(b"\x80\x04" + cls + call + call + state + items + elements + b"}bNb.")
    assert made.class_name == "a.B()"
    assert made.arguments == (1, 2)
    assert made.state is None
    assert made.items == {"y": 2}
    assert made.elements == [3, 4]
    extension = read(b"\x80\x04\x82\x07)R.")
    assert extension.class_name == "copyreg.extension_7"
