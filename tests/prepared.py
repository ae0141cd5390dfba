"""A picture on its whole way to an input."""

import numpy as np
from PIL import Image

from levit_deploy.config import LeViTConfig
from levit_deploy.pictures.preprocessing import IMAGENET, Preprocessing
from levit_deploy.pictures.transform import Transform


def prepare(picture: Image.Image, config: LeViTConfig, by: Preprocessing) -> np.ndarray:
    """Float32 (channels, height, width), as the network expects it."""
    transform = transform_of(config, by)
    transform.require_pictures()
    return transform.normalise(transform.fit(picture))


def transform_of(config: LeViTConfig, by: Preprocessing = IMAGENET) -> Transform:
    """For a network of this configuration."""
    return Transform(config.image_size, config.in_channels, by)
