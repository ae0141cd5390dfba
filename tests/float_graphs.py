from pathlib import Path

import numpy as np
import onnx
import torch
from networks import SMALL, trained
from PIL import Image

from levit_deploy.interface import Interface
from levit_deploy.layout import to_spatial
from levit_deploy.model import LeViT
from levit_deploy.passes import to_plain
from levit_deploy.pictures.preprocessing import IMAGENET
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.calibration import observed_ranges
from levit_deploy.targets.onnx_int8_writer import Int8Form
from levit_deploy.targets.onnx_rounding import Rounding
from levit_deploy.targets.onnx_writer import to_onnx

CONFIG = SMALL.replace(image_size=(32, 32))


def centred(config=CONFIG, seed=0) -> LeViT:
    """A network that gives pictures of few colours all kinds of answers."""
    model = trained(config, seed)
    colours = torch.from_numpy(noise(64, config.replace(image_size=(2, 2)))).sign() * 2
    images = torch.nn.functional.interpolate(colours, config.image_size, mode="bicubic")
    with torch.no_grad():
        features = model.forward_features(images)
        for head in (model.head, model.head_dist):
            logits = head(features)
            head.l.weight /= logits.std(0)[:, None]
            head.l.bias /= logits.std(0)
            head.l.bias -= head(features).mean(0)
    return model


def float_graph(config=CONFIG, layout="tokens", model=None, **options) -> onnx.ModelProto:
    model = to_plain(model or trained(config), "mean")
    model = to_spatial(model) if layout == "spatial" else model
    return to_onnx(
        model,
        Provenance(checkpoint_sha256="", config=config, head="mean", layout=layout),
        **options,
    )


def int8_form(
    config=CONFIG,
    layout="tokens",
    model=None,
    input="float32",
    output="logits",
    preprocessing=IMAGENET,
    **options,
) -> Int8Form:
    model = to_plain(model or trained(config), "mean")
    return Int8Form(
        model=to_spatial(model) if layout == "spatial" else model,
        provenance=Provenance(
            checkpoint_sha256="",
            config=config,
            head="mean",
            layout=layout,
            interface=Interface(input=input, output=output),
            preprocessing=preprocessing,
        ),
        opset=options.pop("opset", 17),
        **options,
    )


def rounded(form: Int8Form, images, cpu="any", floats=(), method="MinMax") -> onnx.ModelProto:
    ranges = observed_ranges(form, images)[method]
    return form.rounded(Rounding(ranges=ranges, cpu=cpu, floats=tuple(floats)))


def noise(n, config=CONFIG, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n, config.in_channels, *config.image_size)
    return rng.standard_normal(shape, dtype=np.float32)


def save_pictures(folder: Path, classes: int, each: int, seed=0) -> Path:
    """Random pictures of 40x36 pixels in class folders; names and classes are not in one order.

    Each is of a few colours, as noise would look all the same to a network.
    """
    rng = np.random.default_rng(seed)
    for i in range(each):
        for label in range(classes):
            path = folder / f"class{label}" / f"{each - i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colours = rng.integers(0, 2, (2, 2, 3), dtype=np.uint8) * 255
            Image.fromarray(colours).resize((40, 36), Image.Resampling.BICUBIC).save(path)
    return folder
