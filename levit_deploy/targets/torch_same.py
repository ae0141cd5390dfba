"""Compare an archive of torch's with the network that was exported again, record by record."""

import io
import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from levit_deploy.targets.same_numbers import Numbers, are_between
from levit_deploy.targets.torch_archive import extra_file

_GRAPH, _WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"  # of PT2
_PASSED_OVER = ("extra/", ".data/serialization_id")  # a hash of all others
Records = dict[str, bytes]


def difference(data: bytes, least: bytes, most: bytes) -> str:
    """Return the first difference of an archive from two others; empty if there is none."""
    names, *others = (_names(each) for each in (data, least))
    if names != others[0]:
        odd = sorted({*names} ^ {*others[0]}) or names
        return f"{odd[0]} is in the archive twice, or in one of them only"
    given, wanted, other = (_records(each) for each in (data, least, most))
    is_bfloat16 = json.loads(extra_file(least))["precision"] == "bf16"
    for name, record in given.items():
        if record == wanted[name] or name.startswith(_PASSED_OVER):
            continue
        if name.endswith(".py"):
            return _difference_of_code(record, wanted[name])
        if name == _GRAPH:
            if words := _difference_of_graphs(record, wanted[name]):
                return words
        elif not _is_tensor(name) or not are_between(
            *(_floats(each[name], is_bfloat16) for each in (given, wanted, other))
        ):
            return f"{_tensor_of(name, wanted)} is another"
    return ""


def _names(archive: bytes) -> list[str]:
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    return sorted(name for name in reader.get_all_records() if not name.startswith(_PASSED_OVER))


def _records(archive: bytes) -> Records:
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    return {name: reader.get_record(name) for name in _names(archive)}


def _is_tensor(name: str) -> bool:
    """Whether a record holds the numbers of a tensor, and nothing else."""
    folder, _, last = name.rpartition("/")
    if folder == "constants":
        return last.isdecimal()
    return folder == "data/weights" and last.startswith("weight_")


def _floats(record: bytes, is_bfloat16: bool) -> Numbers:
    """The numbers of a record; whole ones are equal, and so not looked at."""
    if len(record) % (2 if is_bfloat16 else 4):
        return np.frombuffer(record, np.uint8)
    if is_bfloat16:  # the upper halves of float32
        return (np.frombuffer(record, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(record, np.float32)


def _tensor_of(name: str, records: Records) -> str:
    """The name of the tensor that a record holds, or else of the record."""
    if _WEIGHTS not in records:
        return f"the record {name}"
    config: dict[str, Any] = json.loads(records[_WEIGHTS])["config"]
    own = (tensor for tensor, entry in config.items() if name.endswith(f"/{entry['path_name']}"))
    return next(own, f"the record {name}")


def _difference_of_code(code: bytes, wanted: bytes) -> str:
    lines = zip_longest(*(each.decode(errors="replace").splitlines() for each in (code, wanted)))
    one, other = next(((one, other) for one, other in lines if one != other), ("", ""))
    return f'the code has "{(one or "").strip()}" instead of "{(other or "").strip()}"'


def _difference_of_graphs(graph: bytes, wanted: bytes) -> str:
    """The first difference of two graphs of torch.export, but for the build of torch."""
    given, other = (_without_build(each) for each in (graph, wanted))
    if given == other:
        return ""
    for one, two in zip(_nodes(given), _nodes(other), strict=False):
        if one != two:
            return f"the node {two['name']}, {two['target']}, is another, or takes other values"
    return "the graph is another"


def _without_build(graph: bytes) -> Any:
    try:
        content = json.loads(graph)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    return {key: value for key, value in content.items() if key != "torch_version"}


def _nodes(content: Any) -> Iterator[Any]:
    try:
        yield from content["graph_module"]["graph"]["nodes"]
    except (KeyError, TypeError):
        return
