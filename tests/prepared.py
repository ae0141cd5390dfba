"""A picture on its whole way to an input."""

import numpy as np
from PIL import Image

from levit_deploy.config import LeViTConfig
from levit_deploy.pictures.preprocessing import Preprocessing
from levit_deploy.pictures.transform import fit, normalise, require_pictures


def prepare(picture: Image.Image, config: LeViTConfig, by: Preprocessing) -> np.ndarray:
    """Float32 (channels, height, width), as the network expects it."""
    require_pictures(config, by)
    return normalise(fit(picture, config, by), config, by)
