"""The tensors in a torch archive: storages, and the views of them that a pickle describes."""

import struct
import sys
import zipfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from levit_deploy.checkpoint.pickles.inert import Inert, Named

_KINDS = {
    **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16},
    **{"BFloat16": torch.bfloat16, "ComplexDouble": torch.complex128},
    **{"ComplexFloat": torch.complex64, "Long": torch.int64, "Int": torch.int32},
    **{"Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool},
}
_DTYPES = {f"torch.{kind}Storage": dtype for kind, dtype in _KINDS.items()}
_DTYPES |= {"torch.storage.UntypedStorage": torch.uint8, "torch.UntypedStorage": torch.uint8}

# Written by torch.save for tensors that are not plain arrays of numbers.
OTHER_TENSORS = {
    f"torch._utils._rebuild_{kind}"
    for kind in ("sparse_tensor", "qtensor", "meta_tensor_no_storage", "nested_tensor")
}
_MAX_DIMENSIONS = 64

# The numbers that numpy writes as a dtype and bytes, by the letters of struct.
_NUMBERS = {
    **{"f2": "e", "f4": "f", "f8": "d", "b1": "?"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}


@dataclass(frozen=True)
class Storage:
    """Stored numbers of one dtype: the bytes of a member of the archive."""

    numbers: Tensor


class Storages:
    """The storages of an archive by key, each read once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder = archive, folder
        self._read: dict[str, Tensor] = {}
        self._storages: dict[tuple[str, torch.dtype], Storage] = {}
        order = folder + "byteorder"
        stored = archive.read(order) if order in archive.namelist() else b"little"
        self._swapped = stored != sys.byteorder.encode()

    def __call__(self, persistent_id: Any) -> Storage:
        """Return the storage of an id: ('storage', its class, the key, the device, the length).

        Raises ValueError if the id is another, and KeyError if the archive lacks the member.
        """
        word, kind, key, _, length = persistent_id
        if word not in ("storage", b"storage") or not isinstance(kind, Named):
            raise ValueError("it refers to something else than a storage")
        if kind.name not in _DTYPES:
            raise ValueError(f"it has a storage of the kind {kind.name}")
        if not isinstance(key, str) or not isinstance(length, int):
            raise ValueError("it refers to a storage in other words than torch")
        dtype = _DTYPES[kind.name]
        if (key, dtype) not in self._storages:
            self._storages[key, dtype] = Storage(self._bytes(key, dtype))
        storage = self._storages[key, dtype]
        if length != storage.numbers.numel():
            raise ValueError(f"the record size of storage {key} is not that of its numbers")
        return storage

    def _bytes(self, key: str, dtype: torch.dtype) -> Tensor:
        if key not in self._read:
            member = f"{self._folder}data/{key}"
            stored = torch.empty(self._archive.getinfo(member).file_size, dtype=torch.uint8)
            with self._archive.open(member) as file:
                file.readinto(stored.numpy())  # type: ignore[attr-defined]
                file.read(1)  # at its end, the checksum is compared
            if self._swapped:
                stored.untyped_storage().byteswap(dtype)
            self._read[key] = stored
        return self._read[key].view(dtype)


def tensor_of(arguments: tuple[Any, ...], dtype: torch.dtype | None = None) -> Tensor:
    """Return the view that the arguments of torch's rebuilding describe.

    They are a Storage, an offset, a shape, strides, and others that numbers do not need. ``dtype``
    replaces that of the storage. Raises ValueError for a view that leaves the storage.
    """
    storage, offset, shape, strides = arguments[:4]
    if len(arguments) == 7 + (dtype is not None) and arguments[-1]:
        raise ValueError("it has a tensor that stands for the negative of its numbers")
    if not isinstance(storage, Storage):
        raise ValueError("it has a tensor without a storage")
    numbers = storage.numbers if dtype is None else storage.numbers.view(dtype)
    sizes = (offset, *shape[:_MAX_DIMENSIONS], *strides[:_MAX_DIMENSIONS])
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("it has a tensor whose strides do not fit its shape")
    if any(type(size) is not int or not 0 <= size < 1 << 62 for size in sizes):
        raise ValueError("it has a tensor whose shape is not of numbers")
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= numbers.numel():
        raise ValueError("it has a tensor that leaves its storage")
    return torch.empty(0, dtype=numbers.dtype).set_(
        numbers.untyped_storage(), offset, shape, strides
    )


def dtype_named(value: object) -> torch.dtype:
    """Return the torch.dtype of a Named; raise ValueError for anything else."""
    name = value.name.removeprefix("torch.") if isinstance(value, Named) else ""
    dtype = getattr(torch, name, None) if name.isalnum() or "_" in name else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError("it has a tensor of an unknown type")
    return dtype


def numpy_number(arguments: tuple[Any, ...]) -> float | int | bool | None:
    """Return the number in the arguments of numpy's scalar, or None if it is of another kind."""
    if len(arguments) != 2:
        return None
    dtype, data = arguments
    if not isinstance(dtype, Inert) or not isinstance(data, bytes):
        return None
    kind = dtype.arguments[0] if dtype.arguments else None
    if not isinstance(kind, str) or kind not in _NUMBERS or len(data) != int(kind[1]):
        return None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    number: float | int | bool
    (number,) = struct.unpack((">" if order == ">" else "<") + _NUMBERS[kind], data)
    return number
