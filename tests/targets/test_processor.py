import re
import shutil
import subprocess
from pathlib import Path

import pytest

from levit_deploy.errors import ArtifactError, UsageError
from levit_deploy.targets import processor
from levit_deploy.targets.processor import KINDS, require_processor, this_kind

V3 = "avx avx2 bmi1 bmi2 f16c fma abm movbe"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
MACROS = {  # of g++ and clang, by the instructions as Linux calls them
    **{flag: f"__{flag.upper()}__" for flag in V4.split()},
    "bmi1": "__BMI__",
    "abm": "__LZCNT__",
}


@pytest.fixture
def with_flags(monkeypatch):
    """Lets this processor have other instructions."""

    def have(flags: str) -> None:
        monkeypatch.setattr(processor, "_flags", lambda: set(flags.split()))

    return have


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (V3, "avx2"),
        (f"{V4} avx512_vnni sse2".replace(" avx512vl", ""), "avx2"),
        (V4, "avx512"),
        (f"{V4} sse2 amx_tile avx512_bf16", "avx512 avx512_bf16 amx_tile"),
    ],
)
def test_the_best_kind_is_chosen_and_runs_here(with_flags, flags, kind):
    with_flags(flags)
    assert str(this_kind()) == kind
    require_processor(Path("a.pt2"), kind)


@pytest.mark.parametrize("flags", ["", "sse2 avx", V3.replace(" fma", "")])
def test_other_processors_are_refused_with_what_runs_there(with_flags, flags):
    with_flags(flags)
    with pytest.raises(UsageError, match=r"x86-64 processor with AVX2.* leave --compile out"):
        this_kind()


@pytest.mark.parametrize(
    ("claimed", "flags", "missing"),
    [
        ("avx2", V3.replace(" fma", ""), "x86-64-v3, and this one lacks fma"),
        ("avx2", "", "lacks avx, avx2, bmi1"),
        ("avx512", V3, "x86-64-v4, and this one lacks avx512f"),
        ("avx512 amx_tile", V4, "x86-64-v4, amx_tile, and this one lacks amx_tile"),
    ],
)
def test_a_file_for_another_processor_is_refused(with_flags, claimed, flags, missing):
    with_flags(flags)
    with pytest.raises(ArtifactError, match=f"a.pt2 is compiled .*{missing}.* It would crash"):
        require_processor(Path("a.pt2"), claimed)


def test_a_file_for_a_processor_that_nobody_knows_is_refused():
    with pytest.raises(ArtifactError, match="for the processor 'neon' by its metadata"):
        require_processor(Path("a.pt2"), "neon")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_instructions_are_those_that_the_compiler_uses(kind):
    if shutil.which("g++") is None or not processor._flags():
        pytest.skip("no g++ for x86-64")

    def macros(level: str) -> set[str]:
        command = ["g++", f"-march={level}", "-dM", "-E", "-x", "c++", "/dev/null"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return set(re.findall(r"#define (__\w+__) 1$", printed, re.MULTILINE))

    # XSAVE is how the system keeps the registers of AVX, which Linux tells by 'avx' itself
    more = macros(kind.level) - macros("x86-64-v2") - {"__XSAVE__", "__AVX512__"}
    instructions = {macro for macro in more if "EVEX" not in macro}
    assert instructions == {MACROS[flag] for flag in kind.flags}
