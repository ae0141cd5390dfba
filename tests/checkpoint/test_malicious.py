"""Pickles that would run code if anything followed their instructions. Each has a canary."""

import io
import pickle
import struct
import sys
import zipfile

import pytest
import torch
from typer.testing import CliRunner

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.cli import app
from levit_deploy.errors import CheckpointError, UnsafeInputError


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(module, name, *arguments):
    """GLOBAL, arguments, REDUCE."""
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def stack_global(module, name, *arguments):
    return text(module) + text(name) + b"\x93(" + b"".join(arguments) + b"tR"


def new_object(module, name, *arguments):
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"t\x81"


def old_instance(module, name, *arguments):
    return b"(" + b"".join(arguments) + b"i" + f"{module}\n{name}\n".encode()


def old_object(module, name, *arguments):
    return b"(c" + f"{module}\n{name}\n".encode() + b"".join(arguments) + b"o"


def built(module, name, *state):
    """An allowed object whose state is set by what the attacker names."""
    return b"cargparse\nNamespace\n)\x81" + call(module, name, *state) + b"b"


def item(module, name, *arguments):
    """SETITEM on a dict, with the call as the value and as the key."""
    return b"}" + text("k") + call(module, name, *arguments) + b"s"


def key(module, name, *arguments):
    return b"}" + call(module, name, *arguments) + text("v") + b"s"


def ordered(module, name, *arguments):
    return b"ccollections\nOrderedDict\n)R" + text("k") + call(module, name, *arguments) + b"s"


def persistent(module, name, *arguments):
    return call(module, name, *arguments) + b"Q"


THING = b"cmylib\nThing\n)\x81"  # an object of an unknown class


def inert_state(module, name, *arguments):
    return THING + call(module, name, *arguments) + b"b"


def inert_item(module, name, *arguments):
    return THING + b"(" + text("k") + call(module, name, *arguments) + b"u"


def inert_element(module, name, *arguments):
    return THING + b"(" + call(module, name, *arguments) + b"e"


def result_of_result(module, name, *arguments):
    """The result of an unknown function is called with the gadget, and that result again."""
    return b"cmylib\nmake\n)R(" + call(module, name, *arguments) + b"tR)R"


def keywords(module, name, *arguments):
    return b"cmylib\nThing\n)" + item(module, name, *arguments) + b"\x92"


def storage(module, name, *arguments):
    """The gadget as the class of a storage."""
    kind = call(module, name, *arguments)
    return b"(" + text("storage") + kind + text("0") + text("cpu") + b"K\x02tQ"


TRICKS = [call, stack_global, new_object, old_instance, old_object]
TRICKS += [built, item, key, ordered, persistent]
TRICKS += [inert_state, inert_item, inert_element, result_of_result, keywords, storage]


def touch(path):
    """A Python expression that leaves the canary."""
    return f"open({str(path)!r}, 'w').close()"


def gadgets(path):
    """(module, name, arguments): ways to run something, over many modules."""
    shell, code = text(f"touch {path}"), text(touch(path))
    listed = b"(" + text("touch") + text(str(path)) + b"l"
    system = "posix" if sys.platform != "win32" else "nt"
    return [
        ("os", "system", [shell]),
        (system, "system", [shell]),
        ("os", "popen", [shell]),
        ("os", "mkdir", [text(str(path))]),
        ("os", "execvp", [text("touch"), listed]),
        ("subprocess", "call", [listed]),
        ("subprocess", "run", [listed]),
        ("subprocess", "Popen", [listed]),
        ("subprocess", "check_output", [listed]),
        ("subprocess", "getoutput", [shell]),
        ("builtins", "eval", [code]),
        ("builtins", "exec", [code]),
        ("__builtin__", "eval", [code]),
        ("builtins", "open", [text(str(path)), text("w")]),
        ("builtins", "compile", [code, text("x"), text("exec")]),
        ("builtins", "__import__", [text("antigravity")]),
        ("builtins", "getattr", [b"cos\nsystem\n", text("__call__")]),
        ("builtins", "map", [b"cos\nsystem\n", b"(" + shell + b"l"]),
        ("importlib", "import_module", [text("antigravity")]),
        ("importlib.util", "spec_from_file_location", [text("x"), text("/tmp/x.py")]),
        ("runpy", "run_path", [text("/tmp/x.py")]),
        ("timeit", "timeit", [code]),
        ("cProfile", "run", [code]),
        ("pdb", "run", [code]),
        ("code", "interact", []),
        ("pty", "spawn", [listed]),
        ("platform", "popen", [shell]),
        ("shutil", "copy", [text("/etc/hostname"), text(str(path))]),
        ("pathlib", "Path.touch", [text(str(path))]),
        ("pickle", "loads", [b"C\x00"]),
        ("_pickle", "loads", [b"C\x00"]),
        ("marshal", "loads", [b"C\x00"]),
        ("types", "FunctionType", [code]),
        ("functools", "partial", [b"cos\nsystem\n", shell]),
        ("operator", "attrgetter", [text("system")]),
        ("operator", "methodcaller", [text("system"), shell]),
        ("ctypes", "CDLL", [text("/tmp/x.so")]),
        ("webbrowser", "open", [text("http://localhost")]),
        ("socket", "create_connection", [b"(" + text("localhost") + b"K\x01t"]),
        ("torch", "load", [text("/tmp/x.pth")]),
        ("torch.hub", "load", [text("x"), text("y")]),
        ("torch.jit", "load", [text("/tmp/x.pt")]),
        ("torch.ops", "load_library", [text("/tmp/x.so")]),
        ("torch.utils.cpp_extension", "load", [text("x"), listed]),
        ("torch.serialization", "load", [text("/tmp/x.pth")]),
        ("torch.storage", "_load_from_bytes", [b"C\x00"]),
        ("torch._utils", "_rebuild_wrapper_subclass", [code]),
        ("torch._dynamo.guards", "GuardBuilder", [code]),
        ("torch.fx.graph_module", "reduce_graph_module", [b"}", code]),
        ("torch.distributed.rpc.internal", "PythonUDF", [b"cos\nsystem\n", b"(t", b"}"]),
        ("torch.utils.collect_env", "run", [shell]),
        ("numpy", "load", [text("/tmp/x.npy")]),
        ("numpy", "fromfile", [text("/etc/hostname")]),
        ("numpy.testing._private.utils", "runstring", [code, b"}"]),
        ("numpy.f2py", "compile", [code]),
        ("numpy.core.multiarray", "_reconstruct", [b"cos\nsystem\n", b"K\x00\x85", b"C\x01b"]),
        ("numpy.distutils.exec_command", "exec_command", [shell]),
        ("safetensors.torch", "load_file", [text("/tmp/x")]),
        ("onnxruntime", "InferenceSession", [text("/tmp/x.onnx")]),
        ("levit_deploy.cli", "main", []),
        ("pandas", "read_pickle", [text("/tmp/x.pkl")]),
        ("joblib", "load", [text("/tmp/x.pkl")]),
        ("_io", "open", [text(str(path)), text("w")]),
        ("urllib.request", "urlopen", [text("http://localhost")]),
        ("asyncio", "run", [code]),
        ("types", "CodeType", [code]),
    ]


def torch_zip(payload):
    """As torch.save writes: a state dict with the payload in it."""
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.ones(2)}}, buffer)
    result = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(result, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            new.writestr(member.filename, payload if member.filename.endswith(".pkl") else data)
    return result.getvalue()


def legacy(payload):
    """As torch wrote before 1.6: magic number, protocol, system, then the object."""
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    return head + payload + pickle.dumps([], 2)


def torchscript(payload):
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        archive.writestr("x/data.pkl", payload)
        archive.writestr("x/constants.pkl", payload)
        archive.writestr("x/version", "3")
    return result.getvalue()


CONTAINERS = {
    "zip": torch_zip,
    "legacy": legacy,
    "bare": lambda payload: payload,
    "torchscript": torchscript,
    "safetensors": lambda payload: struct.pack("<Q", len(payload)) + b"{" + payload,
}
COUNT = len(gadgets("x"))

# Honest files name these, too. Here, they are given a name that is refused.
HONEST = {"builtins.getattr", "functools.partial", "numpy.core.multiarray._reconstruct"}


def test_there_are_66_gadgets_and_those_that_can_do_fire(tmp_path):
    assert COUNT == 66
    for module, name in (("os", "system"), ("builtins", "eval"), ("subprocess", "call")):
        canary = tmp_path / f"{module}.{name}"
        arguments = next(a for m, n, a in gadgets(canary) if (m, n) == (module, name))
        for trick in (call, stack_global, item, ordered):
            pickle.loads(b"\x80\x04" + trick(module, name, *arguments) + b".")
            assert canary.exists()
            canary.unlink()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.__name__)
def test_no_gadget_fires_in_any_container(trick, container, tmp_path):
    canary, folder = tmp_path / "canary", tmp_path / "folder"
    folder.mkdir()
    for module, name, arguments in gadgets(canary):
        payload = b"\x80\x02" + trick(module, name, *arguments) + b"."
        for path in (tmp_path / "x.pth", folder / "pytorch_model.bin"):
            path.write_bytes(CONTAINERS[container](payload))
        for path in (tmp_path / "x.pth", folder):
            with pytest.raises((CheckpointError, UnsafeInputError)) as caught:
                read_checkpoint(path)
            assert not canary.exists(), (module, name)
            if container == "zip":
                dotted = f"{module}.{name}"
                assert caught.type is UnsafeInputError, dotted
                assert ("os.system" if dotted in HONEST else dotted) in str(caught.value)


def test_the_command_says_what_was_refused(tmp_path):
    payload = b"\x80\x02" + call("os", "system", text("true")) + b"."
    (tmp_path / "x.pth").write_bytes(torch_zip(payload))
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "x.pth")])
    assert result.exit_code == 4
    assert "os.system" in result.stderr
