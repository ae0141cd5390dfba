from pathlib import Path

import numpy as np
import pytest
import torch
from example_scripts import FORMS, NETWORKS
from networks import images, trained

from levit_deploy.checkpoint import read_checkpoint
from levit_deploy.demo.demonstration import read_demo_checkpoint
from levit_deploy.demo.digits import held_out
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance
from levit_deploy.targets.target import EXPORTERS, ExportOptions


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
            provenance = Provenance(checkpoint.sha256, checkpoint.config, "mean", layout)
            data = EXPORTERS[format].serialize(model, provenance, ExportOptions(opset))
            (folder / f"{network}.{name}").write_bytes(data)
    return folder
