"""A network that takes bytes and gives probabilities, and what it should compute."""

import numpy as np
import torch
from networks import SMALL, float64_logits, trained

from levit_deploy.targets.target import ExportOptions

SQUARE = SMALL.replace(image_size=(64, 64))  # rows and columns can be mistaken for each other
MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
PIXELS = np.random.default_rng(3).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
PIXELS[1] = 255  # borders differ most where the picture is white
BOTH = ExportOptions(input="uint8", output="probabilities")


def expected_logits():
    images = torch.from_numpy(((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2).copy())
    return float64_logits(trained(SQUARE), images)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
