"""Every change of an archive of torch's is told, but for one that computes nothing else."""

import io
import zipfile

import pytest
import torch
from networks import TINY, trained

from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.pt2 import PT2
from levit_deploy.targets.target import ExportOptions
from levit_deploy.targets.torch_same import difference
from levit_deploy.targets.torchscript import TORCHSCRIPT


def archive(target, precision="fp32"):
    provenance = Provenance(
        checkpoint_sha256="0", config=TINY, head="mean", layout="tokens", precision=precision
    )
    return target.serialize(to_plain(trained(TINY)), provenance, ExportOptions())


@pytest.fixture(scope="module")
def archives():
    return {"torchscript": archive(TORCHSCRIPT), "pt2": archive(PT2)}


def written_again(data, edit=lambda _name, record: record, added=()):
    """An archive with each record as ``edit`` gives it."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(data))
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name in reader.get_all_records():
        if name not in ("version", "byteorder", ".data/version", ".data/serialization_id"):
            record = edit(name, reader.get_record(name))
            writer.write_record(name, record, len(record))
    for name, record in added:
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


def replaced(where, old, new):
    def edit(name, record):
        if not name.endswith(where):
            return record
        assert old in record
        return record.replace(old, new, 1)

    return edit


def first_byte(where, bits=1):
    def edit(name, record):
        return bytes([record[0] ^ bits]) + record[1:] if name.endswith(where) else record

    return edit


@pytest.mark.parametrize(
    ("format", "edit", "words"),
    [
        ("torchscript", first_byte("constants/0"), "the record constants/0 is another"),
        ("torchscript", replaced(".py", b"max(scores, -1)", b"max(scores, -2)"), "max(scores, -2)"),
        ("torchscript", replaced(".py", b"class", b"\nclass"), 'the code has "" instead of "class'),
        ("torchscript", replaced("constants.pkl", b"cpu", b"gpu"), "constants.pkl is another"),
        ("torchscript", replaced("data.pkl", b"LeViT", b"LeViU"), "data.pkl is another"),
        ("pt2", first_byte("weights/weight_0"), "patch_embed.0.weight is another"),
        ("pt2", replaced("model.json", b"aten.hardswish", b"aten.hardtanh"), "the node hardswish"),
        ("pt2", replaced("model.json", b'"min_val": 1', b'"min_val": 2'), "the graph is another"),
        ("pt2", replaced("model.json", b"{", b"["), "the graph is another"),
        ("pt2", lambda n, record: b"[]" if n.endswith("model.json") else record, "the graph is"),
        (
            "pt2",
            replaced("weights_config.json", b"weight_0", b"weight_2"),
            "config.json is another",
        ),
    ],
)
def test_a_change_is_told(archives, format, edit, words):
    data = archives[format]
    assert words in difference(written_again(data, edit), data, data)


def test_a_record_more_or_less_is_told(archives):
    data = archives["torchscript"]
    more = written_again(data, added=[("code/more.py", b"more")])
    words = "code/more.py is in the archive twice, or in one of them only"
    assert difference(more, data, data) == difference(data, more, more) == words


def test_the_order_of_bytes_is_told(archives):
    data = archives["torchscript"]
    given, turned = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(turned, "w") as archive:
        for member in given.infolist():
            content = given.read(member)
            archive.writestr(member, b"big" if content == b"little" else content)
    assert difference(turned.getvalue(), data, data) == "the record byteorder is another"


def test_a_change_that_computes_nothing_else_is_none(archives):
    for data in archives.values():
        assert difference(written_again(data, added=[("extra/a", b"mine")]), data, data) == ""
    build = replaced("model.json", b"+cpu", b"+cu130") if "+cpu" in torch.__version__ else first
    data = archives["pt2"]
    assert difference(written_again(data, build), data, data) == ""


def first(_name, record):
    return record


def test_a_number_lies_between_two_others(archives):
    data = archives["torchscript"]
    up, down = (written_again(data, first_byte("constants/0", bits)) for bits in (2, 3))
    ends = sorted((data, up, down), key=lambda each: torch_bits(each))
    assert difference(ends[1], ends[0], ends[2]) == ""
    assert difference(ends[0], ends[1], ends[2]) == "the record constants/0 is another"


def torch_bits(data):
    record = torch._C.PyTorchFileReader(io.BytesIO(data)).get_record("constants/0")
    return torch.frombuffer(bytearray(record[:4]), dtype=torch.float32).item()


def test_bfloat16_is_read_as_such():
    data = archive(TORCHSCRIPT, "bf16")

    def lower_half(name, record):  # a change that is tiny if it is read as float32
        return bytes([record[0] ^ 2]) + record[1:] if name.endswith("constants/0") else record

    one, two = written_again(data, lower_half), written_again(data, first_byte("constants/0"))
    assert difference(one, data, two) == "the record constants/0 is another"
