"""The same checkpoint gives the same bytes, whatever surrounds it."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from levit_deploy.checkpoint import fused
from levit_deploy.choices import LAYOUTS
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.targets.plain import provenance_of
from levit_deploy.targets.target import EXPORTERS, ExportOptions

FORMS = [  # int8 is in quantization/test_proof.py
    *((format, "fp32", layout) for format in EXPORTERS for layout in LAYOUTS),
    ("onnx", "fp16", "spatial"),
    ("torchscript", "bf16", "tokens"),
]


def test_every_precision_is_looked_at():
    known = {(name, p) for name, exporter in EXPORTERS.items() for p in exporter.precisions}
    assert {form[:2] for form in FORMS} | {("onnx", "int8")} == known


@pytest.mark.slow
@pytest.mark.parametrize(("format", "precision", "layout"), FORMS)
def test_twenty_files_with_one_and_two_threads_are_one(checkpoint, format, precision, layout):
    provenance = provenance_of(checkpoint, "mean", layout, precision)
    before, digests = torch.get_num_threads(), set()
    try:
        for i in range(20):
            torch.set_num_threads(1 + i % 2)
            model = to_plain(checkpoint.model)
            if layout == "spatial":
                model = to_spatial(model)
            data = EXPORTERS[format].serialize(model, provenance, ExportOptions())
            digests.add(hashlib.sha256(data).hexdigest())
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["export"], ["export", "--format", "torchscript"], ["fuse"]], ids=" ".join
)
def test_the_whole_command_gives_the_same_bytes_whatever_surrounds_it(
    tmp_path, checkpoint, command
):
    files = []
    for threads in ("1", "2"):
        files.append(tmp_path / threads)
        surroundings = {
            "OMP_NUM_THREADS": threads,
            "PYTHONHASHSEED": threads,
            "TZ": f"UTC{threads}",
        }
        subprocess.run(
            [sys.executable, "-m", "levit_deploy", *command, checkpoint.path, "-o", files[-1]],
            env={**os.environ, **surroundings},
            cwd=tmp_path if threads == "1" else None,
            check=True,
            capture_output=True,
        )
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_twenty_fused_files_are_one(checkpoint):
    provenance = provenance_of(checkpoint, "mean", "tokens")
    files = {fused.serialize(to_plain(checkpoint.model), provenance) for _ in range(20)}
    assert len(files) == 1
