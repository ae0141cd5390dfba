"""Real scanned digits as pictures in class folders, and the demo's network to answer them."""

from functools import cache
from importlib import resources
from pathlib import Path

import onnx

from levit_deploy.checkpoint import Checkpoint, fused, read_checkpoint
from levit_deploy.demo import digits
from levit_deploy.demo.digits import MEAN, STD
from levit_deploy.interface import Interface
from levit_deploy.layout import to_spatial
from levit_deploy.passes import to_plain
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.pictures.transform import Transform
from levit_deploy.provenance import Provenance
from levit_deploy.targets.onnx_writer import to_onnx
from levit_deploy.targets.torchscript_writer import to_torchscript

LABELS = digits.LABELS
PREPROCESSING = Preprocessing(
    crop_fraction=1.0, interpolation="bilinear", mean=(MEAN,), std=(STD,), assumed=False
)
TRANSFORM = Transform((digits.IMAGE_SIZE, digits.IMAGE_SIZE), 1, PREPROCESSING)


def save_scans(folder: Path, n: int = 360, names=tuple("0123456789")) -> Path:
    """The first ``n`` held-out scans, each in the folder of its class, named by a digit."""
    for name, data in digits.scan_files(n, names).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@cache
def demo_checkpoint() -> Checkpoint:
    return read_checkpoint(str(resources.files("levit_deploy.demo").joinpath("digits.pth")))


@cache
def demo_artifact(format: str = "onnx", batch_size: int | None = None, head: str = "mean") -> bytes:
    """The demo's network as a file, which says how scans become inputs."""
    config = demo_checkpoint().config
    plain = to_plain(demo_checkpoint().model, head)
    provenance = Provenance(
        checkpoint_sha256="", config=config, head=head, layout="tokens", preprocessing=PREPROCESSING
    )
    if format == "torchscript":
        return to_torchscript(plain, provenance)
    if format == "fused":
        return fused.serialize(plain, provenance)
    proto = to_onnx(to_spatial(plain), provenance, batch_size=batch_size)
    return proto.SerializeToString()


@cache
def demo_features(output: str = "features", batch_size: int | None = None) -> bytes:
    """The same network without its heads, as ONNX."""
    provenance = Provenance(
        checkpoint_sha256="",
        config=demo_checkpoint().config,
        head="none",
        layout="spatial",
        preprocessing=PREPROCESSING,
        interface=Interface(output=output),
    )
    plain = to_spatial(to_plain(demo_checkpoint().model, output=output))
    return to_onnx(plain, provenance, batch_size=batch_size).SerializeToString()


def with_metadata(data: bytes, **metadata: str) -> bytes:
    """An ONNX file that says something else of itself."""
    proto = onnx.load_model_from_string(data)
    found = {prop.key: prop.value for prop in proto.metadata_props} | metadata
    onnx.helper.set_model_props(proto, found)
    return proto.SerializeToString()
