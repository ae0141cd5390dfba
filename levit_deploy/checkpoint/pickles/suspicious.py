"""The names that only an attacker's pickle asks for. Nothing would be imported anyway.

The list errs on the honest side: a training script may be called ``code.py`` or ``test.py``, and a
class or function of it is no reason to refuse its weights.
"""

from __future__ import annotations

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

# Modules whose every part acts on the machine, the network or the interpreter.
_MODULES = """
    os posix nt posixpath ntpath subprocess _posixsubprocess sys shutil tempfile fcntl mmap
    pty ctypes _ctypes cffi socket _socket socketserver ssl ftplib smtplib poplib imaplib telnetlib
    http.client http.server urllib.request urllib2 requests webbrowser antigravity xmlrpc paramiko
    importlib _frozen_importlib _frozen_importlib_external imp zipimport pkgutil runpy site
    pickle _pickle cPickle marshal shelve joblib codeop bdb pdb cProfile timeit pydoc doctest
    asyncio threading _thread sqlite3 tkinter idlelib lib2to3 distutils setuptools pip ensurepip
    torch.hub torch.jit torch.package torch.ops torch.utils.cpp_extension torch.utils.collect_env
    torch.utils.bottleneck torch._dynamo.guards torch._inductor torch.fx.graph_module
    torch.fx._lazy_graph_module torch.distributed.rpc torch.distributed.run
    torch.distributed.launch torch.distributed.elastic torch.multiprocessing
    numpy.testing numpy.f2py numpy.distutils numpy.ctypeslib
    safetensors onnx onnxruntime levit_deploy.cli
"""

_NAMES = """
    builtins.eval builtins.exec builtins.execfile builtins.compile builtins.open builtins.file
    builtins.__import__ builtins.globals builtins.locals builtins.vars builtins.setattr
    builtins.delattr builtins.breakpoint builtins.input builtins.raw_input builtins.reload
    builtins.apply builtins.help builtins.__build_class__ builtins.map builtins.filter
    io.open io.open_code io.FileIO _io.open _io.open_code _io.FileIO codecs.open
    types.FunctionType types.LambdaType types.CodeType types.ModuleType
    functools.reduce operator.attrgetter operator.methodcaller operator.call
    code.interact code.InteractiveConsole code.InteractiveInterpreter profile.run trace.Trace
    commands.getoutput commands.getstatusoutput multiprocessing.Process
    multiprocessing.context.Process multiprocessing.process.Process
    torch.load torch.compile torch.classes torch.serialization.load torch.serialization._load
    torch.serialization._legacy_load torch.storage._load_from_bytes
    torch._utils._rebuild_wrapper_subclass
    numpy.load numpy.save numpy.savez numpy.savetxt numpy.loadtxt numpy.genfromtxt numpy.fromfile
    numpy.memmap numpy.DataSource numpy.lib.npyio.load
    pandas.read_pickle pandas.eval
"""

# Functions of these names do the same in any module.
_ANYWHERE = {"__import__", "exec", "execfile", "import_module", "load_library", "loads", "popen"}
_ANYWHERE |= {"runstring", "system"}

_LISTED = {*_MODULES.split(), *_NAMES.split()}
_DEPTH = max(name.count(".") + 1 for name in _LISTED)


def today(module: str, name: str) -> str:
    """The dotted name in Python 3 of a name in a pickle. Protocol 2 writes those of Python 2."""
    renamed = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return ".".join(renamed)


def is_suspicious(dotted: str) -> bool:
    """Whether no honest checkpoint asks for this class or function."""
    parts = dotted.split(".")
    ancestors = {".".join(parts[:count]) for count in range(1, _DEPTH + 1)}
    touches_a_path = parts[0] == "pathlib" and len(parts) > 2 and parts[1] != "_local"
    return not ancestors.isdisjoint(_LISTED) or parts[-1] in _ANYWHERE or touches_a_path
