"""Write a file to time it. Rounded on noise, it is as fast as one rounded on pictures."""

import numpy as np

from levit_deploy.arrays import Images
from levit_deploy.choices import ROUNDED
from levit_deploy.interface import Interface
from levit_deploy.model import LeViT
from levit_deploy.provenance import Provenance
from levit_deploy.quantization.calibration import observed_ranges
from levit_deploy.targets.onnx_int8_writer import int8_form
from levit_deploy.targets.onnx_rounding import Rounding
from levit_deploy.targets.target import ExportOptions, Target

IMAGES = 4


def file_to_time(
    target: Target, model: LeViT, provenance: Provenance, options: ExportOptions
) -> bytes:
    """Return the file of a plain network in its layout. One of ROUNDED answers badly."""
    if provenance.precision not in ROUNDED:
        return target.serialize(model, provenance, options)
    images = _noise(provenance)
    if target.rounded is not None:
        return target.rounded(model, provenance, options, images)(provenance)
    form = int8_form(model, provenance, options)
    rounding = Rounding(ranges=observed_ranges(form, images)["MinMax"], cpu="any")
    data: bytes = form.rounded(rounding).SerializeToString()
    return data


def _noise(provenance: Provenance) -> Images:
    rng, interface = np.random.default_rng(0), provenance.interface
    shape = (IMAGES, *Interface(interface.input).image_shape(provenance.config))
    if interface.input == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)
