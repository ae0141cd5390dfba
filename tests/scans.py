"""Real scanned digits as pictures in class folders, and the demo's network to answer them."""

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from levit_deploy.checkpoint import Checkpoint, fused, read_checkpoint
from levit_deploy.demo.digits import MEAN, STD
from levit_deploy.exporters.onnx import to_onnx
from levit_deploy.exporters.torchscript import to_torchscript
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.preprocessing import Preprocessing
from levit_deploy.provenance import Provenance

PREPROCESSING = Preprocessing(1.0, "bilinear", (MEAN,), (STD,), assumed=False)
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def save_scans(folder: Path, n: int = 360, names=tuple("0123456789")) -> Path:
    """The first ``n`` held-out scans, 8x8 grey, each in the folder of its class."""
    with resources.files("levit_deploy.demo").joinpath("held_out.npz").open("rb") as file:
        arrays = np.load(file)
        scans, labels = arrays["scans"][:n], arrays["labels"][:n]
    for i, (scan, label) in enumerate(zip(scans, labels, strict=True)):
        path = folder / names[label] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(scan * (255 / 16)).astype(np.uint8)).save(path)
    return folder


@cache
def demo_checkpoint() -> Checkpoint:
    return read_checkpoint(str(resources.files("levit_deploy.demo").joinpath("digits.pth")))


@cache
def demo_artifact(format: str = "onnx", batch_size: int | None = None, head: str = "mean") -> bytes:
    """The demo's network as a file, which says how scans become inputs."""
    config = demo_checkpoint().config
    plain = to_plain(demo_checkpoint().model, head)
    provenance = Provenance("", config, head, "tokens", preprocessing=PREPROCESSING)
    if format == "torchscript":
        return to_torchscript(plain, provenance)
    if format == "fused":
        return fused.serialize(plain, provenance)
    proto = to_onnx(to_spatial(plain), provenance, batch_size=batch_size)
    return proto.SerializeToString()


def with_metadata(data: bytes, **metadata: str) -> bytes:
    """An ONNX file that says something else of itself."""
    proto = onnx.load_model_from_string(data)
    found = {prop.key: prop.value for prop in proto.metadata_props} | metadata
    onnx.helper.set_model_props(proto, found)
    return proto.SerializeToString()
