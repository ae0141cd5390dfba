"""Look at a pickle's instructions without following any of them.

``torch.load(weights_only=True)`` runs no foreign code. But a few bytes can make its own
constructors take all memory or time: ``bytearray(10**12)``, a hash of deeply nested tuples, or a
codec that doubles its input again and again. So the names in a checkpoint are compared with an
exact list, before anything is built. Weights and training runs need no others.
"""

from __future__ import annotations

import encodings
import pickletools
from dataclasses import dataclass
from encodings.aliases import aliases

MAX_BYTES = 1 << 19  # timm's levit_256d with its EMA and AdamW state has 227 kB
MAX_TUPLE = 100_000  # elements, with a shared part counted at every use

_STORAGES = {
    f"torch.{kind}Storage"
    for kind in (
        *("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"),
        *("ComplexDouble", "ComplexFloat"),
    )
}
_DTYPES = {
    f"torch.{kind}"
    for kind in (
        *("float16", "bfloat16", "float32", "float64", "int64", "int32", "int16", "int8"),
        *("uint8", "bool"),
    )
}

# Written by torch.save for state dicts, optimizers, schedulers and scalers.
WEIGHTS = _STORAGES | _DTYPES
WEIGHTS |= {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}
WEIGHTS |= {"torch.nn.parameter.Parameter", "torch.Size", "torch.device"}
WEIGHTS |= {"collections.OrderedDict", "collections.Counter", "builtins.set", "__builtin__.set"}

# Written by torch.save for tensors that are not plain arrays of numbers.
OTHER_TENSORS = {
    f"torch._utils._rebuild_{kind}"
    for kind in ("sparse_tensor", "qtensor", "meta_tensor_no_storage", "nested_tensor")
}

# Written by training runs beside the weights: 'args' of official and timm, metrics as numpy
# scalars. None of these is ever called. An inert object stands for each.
NAMESPACE = "argparse.Namespace"
NUMPY_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
NUMPY_DTYPE = "numpy.dtype"
TRAINING = {NAMESPACE, *NUMPY_SCALAR, NUMPY_DTYPE, "_codecs.encode"}

# Codecs from bytes to bytes, which can be chained (docs.python.org, "Binary Transforms").
_BINARY_CODECS = {f"{name}_codec" for name in ("base64", "bz2", "hex", "quopri", "uu", "zlib")}


@dataclass(frozen=True)
class Scan:
    """The dotted names that a pickle imports, and its problem in words, if it has one."""

    names: frozenset[str]
    problem: str | None


def scan(pickle: bytes) -> Scan:
    """Follow the sizes of tuples through a pickle, and collect the names it imports.

    Raises ValueError if its instructions cannot be read.
    """
    if len(pickle) > MAX_BYTES:
        return Scan(frozenset(), f"its pickle has more than {MAX_BYTES} bytes")
    names: set[str] = set()
    texts: set[str] = set()
    stack: list[int] = []  # the size of each value, 0 for a mark
    memo: dict[int, int] = {}
    problem = None
    for opcode, argument, _ in pickletools.genops(pickle):
        name = opcode.name
        if name == "GLOBAL":
            names.add(str(argument).replace(" ", "."))
        elif name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"):
            problem = f"its pickle has the instruction {name}, which torch.save does not write"
        elif isinstance(argument, str):
            texts.add(argument)
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument or 0)] = stack[-1] if stack else 1
            continue
        if name == "MEMOIZE":
            memo[len(memo)] = stack[-1] if stack else 1
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(int(argument or 0), 1))
            continue
        size = 1 + _pop(stack, opcode)
        builds = name.startswith("TUPLE") or name in ("REDUCE", "NEWOBJ")
        if builds and size > MAX_TUPLE:
            problem = f"its pickle has a tuple of more than {MAX_TUPLE} elements"
        if problem is not None:
            break
        for value in opcode.stack_after:
            stack.append(0 if value is pickletools.markobject else size if builds else 1)
    if "_codecs.encode" in names and not _BINARY_CODECS.isdisjoint(map(_codec, texts)):
        problem = "its pickle encodes bytes as bytes, which numbers never need"
    return Scan(frozenset(names), problem)


def _codec(name: str) -> str:
    """The module of Python's codec of this name."""
    normal = encodings.normalize_encoding(name).lower()
    return aliases.get(normal, normal)


def _pop(stack: list[int], opcode: pickletools.OpcodeInfo) -> int:
    """Take an instruction's operands off the stack and return the sum of their sizes."""
    if pickletools.markobject in opcode.stack_before:
        total = 0
        while stack and (size := stack.pop()):
            total += size
        for _ in opcode.stack_before[: opcode.stack_before.index(pickletools.markobject)]:
            total += stack.pop() if stack else 0
        return total
    return sum(stack.pop() for _ in opcode.stack_before if stack)
