import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from example_scripts import EXAMPLES, FORMS, NETWORKS, NODE_PACKAGE
from networks import images, trained

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import held_out
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.formats import TARGETS
from levit_deploy.targets.target import ExportOptions


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """Both networks in every form, and images for each."""
    folder = tmp_path_factory.mktemp("runtimes")
    torch.save(trained().state_dict(), folder / "small.pth")
    read_demo_checkpoint(folder)
    np.save(folder / "small.npy", images(n=8).numpy())
    np.save(folder / "digits.npy", held_out().images[:8])
    for network in NETWORKS:
        checkpoint = read_checkpoint(folder / f"{network}.pth")
        for name, (format, layout, opset) in FORMS.items():
            model = to_plain(checkpoint.model)
            model = to_spatial(model) if layout == "spatial" else model
            provenance = Provenance(
                checkpoint_sha256=checkpoint.sha256,
                config=checkpoint.config,
                head="mean",
                layout=layout,
            )
            data = TARGETS[format].serialize(model, provenance, ExportOptions(opset))
            (folder / f"{network}.{name}").write_bytes(data)
    return folder


@pytest.fixture
def node() -> str:
    """The program that runs examples/node."""
    program = shutil.which("node")
    if program is None or not NODE_PACKAGE.is_dir():
        pytest.skip("onnxruntime-node is not installed: npm install --ignore-scripts")
    return program


@pytest.fixture
def refused(monkeypatch, capfd) -> Callable[..., str]:
    """Runs a script, in this process, that ends with a sentence; returns what it said."""

    def run(name: str | Path, *arguments: object, path: Path | None = None) -> str:
        monkeypatch.setattr(sys, "argv", [str(name), *map(str, arguments)])
        if path is not None:
            monkeypatch.setenv("PATH", str(path))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert isinstance(ended.value.code, str)  # which Python prints, and exits with 1
        return capfd.readouterr().err + ended.value.code

    return run
