"""Compile a program of torch.export to native code, by AOTInductor in a process of its own.

The process keeps everything that torch's compiler writes in one temporary folder: the environment
tells torch its folder before it is imported, and the compilers theirs.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive._package import AOTICompiledModel

from levit_deploy.errors import BackendError, UsageError
from levit_deploy.provenance import Provenance
from levit_deploy.targets.processor import Kind
from levit_deploy.targets.torch_archive import extra_files, rewritten

_PROGRAM = (
    "import json, sys; sys.path[:], *options = json.loads(sys.argv[1]); "
    "from levit_deploy.targets.pt2_compile import main; main(*options)"
)
# g++ writes the names of source files into its output, and these stand in a temporary folder
_COMPILER = """#!/bin/sh
exec {compiler} -ffile-prefix-map={folder}=. -ffile-prefix-map={torch}=torch "$@"
"""


def require_compiler() -> str:
    """Return the path of the C++ compiler; raise UsageError if there is none."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise UsageError(
            "--compile needs a C++ compiler, and g++ is not installed. Install it (on Debian and "
            "Ubuntu: apt-get install g++), or leave --compile out."
        )
    return compiler


def compiled(program: bytes, kind: Kind, provenance: Provenance) -> bytes:
    """Return the package of torch's that runs a PT2 file as native code, with its provenance.

    Raises UsageError if there is no C++ compiler, and BackendError if it fails.
    """
    compiler = require_compiler()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program.pt2").write_bytes(program)
        _write_compiler(folder, compiler)
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps([sys.path, name, vars(kind)])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ
            | {
                "TMPDIR": name,
                "TORCHINDUCTOR_CACHE_DIR": f"{name}/cache",
                "CXX": f"{name}/g++",
                "OMP_WAIT_POLICY": "PASSIVE",
            },
        )
        if done.returncode:
            last = done.stdout.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise BackendError(
                f"torch could not compile the network with {compiler}: {last[0].rstrip('.')}. Try "
                "another version of either, or leave --compile out."
            )
        package = io.BytesIO((folder / "package.pt2").read_bytes())
    return rewritten(package, _without_sources, extra_files(provenance))


def _without_sources(name: str, record: bytes) -> tuple[str, bytes] | None:
    """Leave out the generated C++ code, which names the folder that it was compiled in."""
    return None if ".cpp" in name or ".kernel" in name else (name, record)


def _write_compiler(folder: Path, compiler: str) -> None:
    script = folder / "g++"
    libraries = Path(torch.__file__).parent
    script.write_text(_COMPILER.format(compiler=compiler, folder=folder, torch=libraries))
    script.chmod(0o700)


class Compiled(torch.nn.Module):
    """Native code as a module."""

    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.code = AOTICompiledModel(loader)

    def forward(self, images: torch.Tensor) -> Any:
        return self.code(images)


def opened(path: Path) -> Compiled:
    """Load a package; raises torch's own exceptions.

    torch unpacks it into a temporary folder, which it would leave behind if its process is killed.
    Nothing needs the folder once the code is loaded.
    """
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        try:
            return Compiled(torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1))
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


def main(folder: str, kind: dict[str, Any]) -> None:
    """Compile the program in a folder for a kind of processor; runs in a process of its own."""
    from torch._inductor import aoti_compile_and_package

    # 'native', torch's default, would allow every instruction of this very machine
    settings = {
        "cpp.march": kind["level"],
        "cpp.simdlen": kind["bits"],
        "cpp.dynamic_threads": True,  # or the number of threads of the export would be baked in
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.model_name_for_generated_files": "model",  # and not a hash of their folder
        "aot_inductor.precompile_headers": False,  # slower, for a single use
        "cpp_cache_precompile_headers": False,
    }
    aoti_compile_and_package(
        torch.export.load(f"{folder}/program.pt2"),
        package_path=f"{folder}/package.pt2",
        inductor_configs=settings,
    )
