"""Follow the instructions of a pickle without importing or calling anything that it names.

Python's unpickler calls whatever the file names. torch's, with ``weights_only=True``, calls only
names on its list, and refuses every other file. This one builds tensors, plain values, and for all
else an ``Inert``: what is not a tensor need not be built. It knows the instructions of protocols 0
to 5. Each takes a bounded amount of memory beside the bytes in the file, so an ``Allowance`` of
steps bounds the whole:

- A tuple, a dict or a text that is used many times is shared and never copied.
- A tuple or a large integer is no key: a tuple of shared tuples takes for ever to hash, and large
  integers may all have one hash. An ``Inert`` with the tuple or integer stands for it.
- Nothing from the file is compared, hashed or printed before its type is known.
- ``_codecs.encode`` knows latin1 only, in which Python writes bytes.
"""

from __future__ import annotations

import gc
import pickletools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from levit_deploy.checkpoint.pickles.allowance import Allowance
from levit_deploy.checkpoint.pickles.inert import Inert, Named
from levit_deploy.checkpoint.pickles.stored import dtype_named, numpy_number, tensor_of
from levit_deploy.checkpoint.pickles.suspicious import is_suspicious, today

_NEW_NAME, _SET, _TENSOR = 10, 4, 10  # steps
_MAX_NAME = 500  # characters
_MAX_INTEGER = 1 << (8 * 255)
_MAX_PLACE = 1 << 32  # in the memo
_MAX_KEY = 1 << 60  # below Python's modulus of hashes


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause Python's search for cycles, which takes most of the time if objects are many."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


class Unpickler:
    """The reader of one pickle.

    Attributes:
        names: The dotted names of the classes and functions that it asked for so far.
        suspicious: Those of them that only an attacker asks for, in the words of the file.
    """

    def __init__(self, data: bytes, storage: Callable[[Any], object], allowance: Allowance) -> None:
        """``storage`` gives a storage for its persistent id."""
        self.names: set[str] = set()
        self.suspicious: set[str] = set()
        self._data, self._storage, self._allowance = data, storage, allowance
        self._stack: list[Any] = []
        self._marks: list[int] = []  # the height of the stack at each
        self._memo: dict[int, Any] = {}
        self._named: dict[str, Named] = {}
        self._encoded: dict[str, bytes] = {}

    @_no_collection()
    def load(self) -> Any:
        """Return the object. Raises ValueError for a pickle that no checkpoint needs.

        A damaged pickle may raise anything.
        """
        push = self._stack.append
        for opcode, argument, _ in pickletools.genops(self._data):
            self._allowance.spend(1)
            name = opcode.name
            if name in _LITERALS:
                if type(argument) is int and abs(argument) >= _MAX_INTEGER:
                    raise ValueError("its pickle has an integer of more than 255 bytes")
                push(argument)
            elif name in _CONSTANTS:
                push(_CONSTANTS[name])
            elif name == "EMPTY_LIST":
                push([])
            elif name == "EMPTY_DICT":
                push({})
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            else:
                raise ValueError(f"its pickle has the instruction {name}")
        return self._stack.pop()

    # The stack and the memo

    def mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _marked(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def pop(self, _: None) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def pop_mark(self, _: None) -> None:
        self._marked()

    def duplicate(self, _: None) -> None:
        self._stack.append(self._stack[-1])

    def put(self, place: int) -> None:
        if place >= _MAX_PLACE:
            raise ValueError("its pickle remembers more than it can have")
        self._memo[place] = self._stack[-1]

    def memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    # Collections

    def tuple_of_marked(self, _: None) -> None:
        self._stack.append(tuple(self._marked()))

    def tuple_of_1(self, _: None) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def tuple_of_2(self, _: None) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def tuple_of_3(self, _: None) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def list_of_marked(self, _: None) -> None:
        self._stack.append(self._marked())

    def dict_of_marked(self, _: None) -> None:
        items = self._marked()
        self._stack.append({})
        self._set_items(items)

    def empty_set(self, _: None) -> None:
        self._allowance.spend(_SET)
        self._stack.append(set())

    def frozenset_of_marked(self, _: None) -> None:
        self._allowance.spend(_SET)
        self._stack.append(frozenset(map(_key, self._marked())))

    def append(self, _: None) -> None:
        self._extend([self._stack.pop()])

    def append_marked(self, _: None) -> None:
        self._extend(self._marked())

    def _extend(self, elements: list[Any]) -> None:
        collection = self._stack[-1]
        if isinstance(collection, Inert):
            collection.elements.extend(elements)
        elif isinstance(collection, set):
            collection.update(map(_key, elements))
        elif isinstance(collection, list):
            collection.extend(elements)
        else:
            raise ValueError(f"its pickle appends to a {type(collection).__name__}")

    def set_item(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def set_marked_items(self, _: None) -> None:
        self._set_items(self._marked())

    def _set_items(self, items: list[Any]) -> None:
        mapping = self._stack[-1]
        if isinstance(mapping, Inert):
            mapping = mapping.items
        if not isinstance(mapping, dict):
            raise ValueError(f"its pickle sets an item of a {type(mapping).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            mapping[_key(key)] = value

    # Names, and the objects made by them

    def name(self, words: str) -> None:
        self._stack.append(self._name(*words.split(" ", 1)))

    def name_on_stack(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._name(module, name))

    def extension(self, code: int) -> None:
        self._stack.append(self._name("copyreg", f"extension_{code}"))

    def _name(self, module: str, name: str) -> Named:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("its pickle has a name that is no text")
        if len(module) + len(name) > _MAX_NAME:
            raise ValueError(f"its pickle has a name of more than {_MAX_NAME} characters")
        written = f"{module}.{name}"
        if written not in self._named:
            self._allowance.spend(_NEW_NAME)
            dotted = today(module, name)
            if is_suspicious(written) or is_suspicious(dotted):
                self.suspicious.add(written)
            self.names.add(dotted)
            self._named[written] = Named(dotted)
        return self._named[written]

    def call(self, _: None) -> None:
        arguments, callee = self._stack.pop(), self._stack.pop()
        self._stack.append(self._called(callee, arguments))

    def call_with_keywords(self, _: None) -> None:
        keywords, arguments, callee = self._stack.pop(), self._stack.pop(), self._stack.pop()
        made = self._called(callee, arguments)
        if isinstance(made, Inert):
            made.state = keywords
        self._stack.append(made)

    def old_instance(self, words: str) -> None:
        arguments = tuple(self._marked())
        self._stack.append(self._called(self._name(*words.split(" ", 1)), arguments))

    def old_object(self, _: None) -> None:
        callee, *arguments = self._marked()
        self._stack.append(self._called(callee, tuple(arguments)))

    def build(self, _: None) -> None:
        state, made = self._stack.pop(), self._stack[-1]
        if isinstance(made, Inert):
            made.state = state
        elif not isinstance(made, dict):  # a state dict's has the versions of its modules, unused
            raise ValueError(f"its pickle changes a {type(made).__name__}")

    def persistent(self, _: None) -> None:
        self._stack.append(self._storage(self._stack.pop()))

    def _called(self, callee: object, arguments: object) -> Any:
        """The object that a call would make. The few names of tensors and numbers are known."""
        if not isinstance(arguments, tuple):
            raise ValueError("its pickle calls a class without arguments")
        if isinstance(callee, Inert):
            made_by = f"{callee.class_name.removesuffix('()')}()"  # of a bounded length
            return Inert(class_name=made_by, arguments=arguments)
        if not isinstance(callee, Named):
            raise ValueError(f"its pickle calls a {type(callee).__name__}")
        maker = _MAKERS.get(callee.name)
        made = None if maker is None else maker(self, arguments)
        return Inert(class_name=callee.name, arguments=arguments) if made is None else made

    # What the known names make, or None for arguments that torch.save would not write

    def _tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        self._allowance.spend(_TENSOR)
        return tensor_of(arguments)

    def _untyped_tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        self._allowance.spend(_TENSOR)
        return tensor_of(arguments, dtype_named(arguments[6]))

    def _tensor_of_type(self, arguments: tuple[Any, ...]) -> Any:
        """A tensor with attributes: a function that makes it, its class, arguments, attributes."""
        maker, _, given, _ = arguments
        return self._called(maker, given) if maker.name in _TENSORS else None

    def _first(self, arguments: tuple[Any, ...]) -> Any:
        """A parameter is its tensor, a torch.Size its tuple, a Counter its dict."""
        return arguments[0] if arguments else None

    def _ordered_dict(self, arguments: tuple[Any, ...]) -> dict[Any, Any] | None:
        return None if arguments else {}

    def _set(self, arguments: tuple[Any, ...]) -> set[Any]:
        (elements,) = arguments
        self._allowance.spend(_SET + len(elements))  # which may be used again
        return set(map(_key, elements))

    def _bytes(self, arguments: tuple[Any, ...]) -> bytes | None:
        return None if arguments else b""

    def _encoded_text(self, arguments: tuple[Any, ...]) -> bytes | None:
        text, codec = arguments
        if not isinstance(text, str) or codec != "latin1":
            return None
        if text not in self._encoded:
            self._encoded[text] = text.encode("latin1")
        return self._encoded[text]

    def _number(self, arguments: tuple[Any, ...]) -> float | int | bool | None:
        return numpy_number(arguments)

    def _attribute(self, arguments: tuple[Any, ...]) -> None:
        """Note an attribute such as ``__globals__``. Enums and bound methods ask for others."""
        name = arguments[1] if len(arguments) > 1 else None
        if isinstance(name, str) and name.startswith("__") and name != "__new__":
            self.suspicious.add("builtins.getattr")


def _key(value: Any) -> Any:
    """The value as a key, or an Inert for one that would take long to hash."""
    large = isinstance(value, int) and abs(value) >= _MAX_KEY
    if large or isinstance(value, tuple | set | frozenset):
        return Inert(class_name=f"builtins.{type(value).__name__}", arguments=(value,))
    return value


_TENSORS: dict[str, Callable[[Unpickler, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": Unpickler._tensor,
    "torch._utils._rebuild_tensor_v3": Unpickler._untyped_tensor,
    "torch._utils._rebuild_parameter": Unpickler._first,
    "torch._utils._rebuild_parameter_with_state": Unpickler._first,
}
_MAKERS = _TENSORS | {
    "torch._tensor._rebuild_from_type_v2": Unpickler._tensor_of_type,
    "torch.nn.parameter.Parameter": Unpickler._first,
    "torch.Size": Unpickler._first,
    "collections.Counter": Unpickler._first,
    "collections.OrderedDict": Unpickler._ordered_dict,
    "builtins.set": Unpickler._set,
    "builtins.frozenset": Unpickler._set,
    "builtins.bytes": Unpickler._bytes,
    "builtins.getattr": Unpickler._attribute,
    "_codecs.encode": Unpickler._encoded_text,
    "numpy.core.multiarray.scalar": Unpickler._number,
    "numpy._core.multiarray.scalar": Unpickler._number,
}

_LITERALS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_LITERALS |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "BINUNICODE8"}
_LITERALS |= {"SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_ACTIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _unpickler, _argument: None),
    **{"MARK": Unpickler.mark, "POP": Unpickler.pop, "POP_MARK": Unpickler.pop_mark},
    **{"DUP": Unpickler.duplicate, "MEMOIZE": Unpickler.memoize},
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Unpickler.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Unpickler.get),
    **{"TUPLE": Unpickler.tuple_of_marked, "TUPLE1": Unpickler.tuple_of_1},
    **{"TUPLE2": Unpickler.tuple_of_2, "TUPLE3": Unpickler.tuple_of_3},
    **{"LIST": Unpickler.list_of_marked, "DICT": Unpickler.dict_of_marked},
    **{
        "EMPTY_SET": Unpickler.empty_set,
        "FROZENSET": Unpickler.frozenset_of_marked,
        "ADDITEMS": Unpickler.append_marked,
    },
    **{"APPEND": Unpickler.append, "APPENDS": Unpickler.append_marked},
    **{"SETITEM": Unpickler.set_item, "SETITEMS": Unpickler.set_marked_items},
    **{"GLOBAL": Unpickler.name, "STACK_GLOBAL": Unpickler.name_on_stack},
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), Unpickler.extension),
    **{"REDUCE": Unpickler.call, "NEWOBJ": Unpickler.call},
    **{"NEWOBJ_EX": Unpickler.call_with_keywords, "BUILD": Unpickler.build},
    **{"INST": Unpickler.old_instance, "OBJ": Unpickler.old_object},
    "BINPERSID": Unpickler.persistent,
}
