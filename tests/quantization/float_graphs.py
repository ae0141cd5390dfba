from pathlib import Path

import numpy as np
import onnx
from networks import SMALL, trained
from PIL import Image

from levit_deploy.exporters.onnx import to_onnx
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.provenance import Provenance

CONFIG = SMALL.replace(image_size=(32, 32))


def float_graph(config=CONFIG, layout="tokens", **options) -> onnx.ModelProto:
    model = to_plain(trained(config), "mean")
    model = to_spatial(model) if layout == "spatial" else model
    return to_onnx(model, Provenance("", config, "mean", layout), **options)


def noise(n, config=CONFIG, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n, config.in_channels, *config.image_size)
    return rng.standard_normal(shape, dtype=np.float32)


def save_pictures(folder: Path, classes: int, each: int, seed=0) -> Path:
    """Random pictures of 40x36 pixels in class folders; names and classes are not in one order."""
    rng = np.random.default_rng(seed)
    for i in range(each):
        for label in range(classes):
            path = folder / f"class{label}" / f"{each - i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(path)
    return folder
