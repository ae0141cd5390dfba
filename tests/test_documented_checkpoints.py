"""Every row of the tables of checkpoints is a file that loads, as README and docs say."""

import json
import re
from pathlib import Path

import foreign
import networks
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from levit_deploy import fuse
from levit_deploy.checkpoint import read_checkpoint

ROOT = Path(__file__).parent.parent
SMALL = networks.SMALL
SIZE = SMALL.image_size

TIMM_CONFIG = {
    "architecture": "levit_128s",
    "model_args": {"embed_dim": [12, 16, 18], "img_size": list(SIZE)},
}
FOLDERS = {
    "timm": {"config.json": TIMM_CONFIG},
    "timm conv": {"config.json": TIMM_CONFIG},
    "transformers": {"config.json": {"model_type": "levit", "image_size": list(SIZE)}},
}


def rows(page, header):
    """The cells of the table that begins with this header."""
    table = (ROOT / page).read_text().split(f"| {header}")[1].split("\n\n")[0]
    return [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in table.splitlines()[2:]
    ]


README_ROWS = rows("README.md", "from | files")
FAMILY_ROWS = rows("docs/checkpoints.md", "family | recognised by")


def families(cell):
    """The families that a cell names, as foreign.py has them."""
    words = {
        "replace_batchnorm": ["official fused"],
        "switch_to_deploy": ["mmpretrain fused"],
        "official": ["official", "official conv"],
        "levit_conv_": ["timm", "timm conv"],
        "transformers": ["transformers"],
        "mmpretrain": ["mmpretrain"],
        "vit-pytorch": ["vit-pytorch"],
        "LayerNorm": ["LayerNorm variant"],
        "levit-deploy fuse": ["levit-deploy fused"],
    }
    named = [family for word, names in words.items() if word in cell for family in names]
    if "fused" in " ".join(named) and "also after" not in cell:
        named = [name for name in named if name.endswith("fused")]
    return named


def written(folder, family, form):
    """A file or folder of this form, and the network in it."""
    config = SMALL.replace(**foreign.FAMILIES.get(family, foreign.FAMILIES["official"])[1])
    model = networks.trained(config)
    if family == "levit-deploy fused":
        torch.save(model.state_dict(), folder / "a.pth")
        fuse(folder / "a.pth", folder / "a.safetensors")
        return folder / "a.safetensors", model
    state = foreign.state_of(family, SMALL)
    if form == "folder":
        for name, contents in FOLDERS[family].items():
            (folder / name).write_text(json.dumps(contents))
        form = "model.safetensors"
    path = folder / form if "." in form.strip(".") else folder / f"a{form}"
    if form.endswith(".safetensors"):
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path.parent if form == "model.safetensors" else path, model


def cases():
    for cell, forms in README_ROWS:
        for family in families(cell):
            for form in re.findall(r"`(\.\w+)`|(folder)", forms):
                yield pytest.param(family, "".join(form), id=f"{family} {''.join(form)}")


@pytest.mark.parametrize(("family", "form"), list(cases()))
def test_each_row_of_the_readme_loads(tmp_path, family, form):
    path, model = written(tmp_path, family, form)
    fused = family == "levit-deploy fused"
    checkpoint = read_checkpoint(path, image_size=None if fused else SIZE)
    images = networks.images()
    expected = networks.float64_logits(model, images)
    actual = networks.float64_logits(checkpoint.model, images)
    assert np.abs(actual - expected).max() < (1e-5 if fused else 1e-10) * np.abs(expected).max()


@pytest.mark.parametrize("row", FAMILY_ROWS, ids=lambda row: row[0][:40])
def test_each_row_of_the_families_names_a_tensor_of_theirs(row):
    named = families(row[0])
    assert named
    for family in named:
        if family == "levit-deploy fused":
            assert row[1] == "metadata"
            continue
        (tensor,) = re.findall(r"`([\w.]+?)\.*`", row[1])
        assert any(key.startswith(tensor) for key in foreign.state_of(family, SMALL))


def test_every_family_is_in_both_tables():
    known = {*foreign.FAMILIES, "levit-deploy fused"}
    for table in (README_ROWS, FAMILY_ROWS):
        assert {family for cell, *_ in table for family in families(cell)} == known
