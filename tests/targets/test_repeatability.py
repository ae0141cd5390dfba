"""The same checkpoint gives the same bytes, whatever surrounds it."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from command_line import as_process
from every_format import EXTRAS
from networks import SHALLOW, trained

from levit_deploy.checkpoint import fused
from levit_deploy.interface import Interface
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.target import ExportOptions

BOTH = {"input": "uint8", "output": "probabilities"}
FORMS = {  # int8 is in verification/test_int8.py
    "onnx fp32 tokens": {},
    "onnx fp32 spatial": {},
    "onnx fp32 tokens, Attention": {"opset": 23, **BOTH},
    "onnx fp16 spatial": {},
    "onnx fp16 tokens, Attention": {"opset": 23},
    "torchscript fp32 tokens": BOTH,
    "torchscript fp32 spatial": {},
    "torchscript bf16 tokens": {},
    "pt2 fp32 tokens": BOTH,
    "pt2 bf16 tokens": {},
    "fused fp32 tokens": {},
    "litert fp32 tokens": BOTH,
    "litert int8-dynamic tokens": {},
}


def marked(form: str):
    """The form, with the mark of the extra that it needs."""
    extra = form.split()[0]
    return pytest.param(form, marks=getattr(pytest.mark, extra) if extra in EXTRAS else ())


# seconds each, and the other process has two threads, too
SLOW = [form for form in FORMS if form.startswith("pt2 ")]
QUICK = [marked(form) for form in FORMS if form not in SLOW]


def digest(form: str) -> str:
    """Of a file that is made anew."""
    options = ExportOptions(**FORMS[form])
    format, precision, layout = form.partition(",")[0].split()
    interface = Interface(options.input, options.output)
    model = to_plain(trained(SHALLOW))
    model = to_spatial(model) if layout == "spatial" else model
    provenance = Provenance(
        checkpoint_sha256="0" * 64,
        config=SHALLOW,
        head="mean",
        layout=layout,
        precision=precision,
        interface=interface,
    )
    if format == "fused":
        return hashlib.sha256(fused.serialize(model, provenance)).hexdigest()
    return hashlib.sha256(TARGETS[format].serialize(model, provenance, options)).hexdigest()


digest_here = cache(digest)


def digests_by_threads(form: str, files: int) -> set[str]:
    before = torch.get_num_threads()
    try:
        found = set()
        for i in range(files):
            torch.set_num_threads(2 - i % 2)
            found.add(digest(form))
    finally:
        torch.set_num_threads(before)
    return found


def test_every_precision_is_looked_at():
    known = {(name, p) for name, target in TARGETS.items() for p in target.precisions}
    assert {tuple(form.split()[:2]) for form in FORMS} - {("fused", "fp32")} == known - {
        # tests/targets/test_executorch.py
        *(("executorch", precision) for precision in TARGETS["executorch"].precisions),
        ("onnx", "int8"),  # of pictures: tests/verification/test_int8.py
        ("onnx", "w8a16"),
    }


@pytest.mark.parametrize("form", QUICK)
def test_two_threads_write_what_one_does(form):
    assert digests_by_threads(form, files=1) == {digest_here(form)}


@pytest.mark.study
@pytest.mark.parametrize("form", [*QUICK, *SLOW])
def test_twenty_files_are_one(form):
    assert digests_by_threads(form, files=20) == {digest_here(form)}


def test_another_process_writes_the_same(tmp_path):
    here = {extra for extra, package in EXTRAS.items() if importlib.util.find_spec(package)}
    forms = [form for form in FORMS if form.split()[0] not in EXTRAS.keys() - here]
    forms.remove("pt2 bf16 tokens")  # is pt2 fp32 with other weights, and takes seconds
    folders = (Path(__file__).parent, Path(__file__).parent.parent, *sys.path)
    surroundings = {
        "OMP_NUM_THREADS": "2",
        "PYTHONHASHSEED": "1",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "TZ": "UTC1",
    }
    code = "import sys, test_repeatability as t; print(*map(t.digest, sys.argv[1:]))"
    printed = subprocess.run(
        [sys.executable, "-c", code, *forms],
        env=os.environ | surroundings,
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert printed.split() == [digest_here(form) for form in forms]


def test_a_whole_command_writes_the_same_whatever_surrounds_it(tmp_path, proven):
    surroundings = {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1", "TZ": "UTC1"}
    output = tmp_path / "ckpt.onnx"
    subprocess.run(
        as_process("export", proven / "ckpt.pth", "-o", output),
        env=os.environ | surroundings,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert output.read_bytes() == (proven / "ckpt.onnx").read_bytes()
