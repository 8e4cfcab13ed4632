"""From a picture to the model's size: CLIP's own preprocessing up to the normalisation, as uint8."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tf


def to_model_size(image: Image.Image, size: int) -> Tensor:
    """Shorter side to ``size`` (bicubic, antialiased), centre crop, RGB; uint8 (3, size, size)."""
    image = image.convert("RGB")
    if image.size != (size, size):
        image = tf.center_crop(tf.resize(image, [size], InterpolationMode.BICUBIC), [size, size])
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def mask_to_model_size(mask: NDArray[np.float32], size: int) -> Tensor:
    """A true object mask (H, W) in [0, 1] at the model's size, by area; (size, size)."""
    tensor = torch.from_numpy(mask)[None]
    if mask.shape != (size, size):
        tensor = tf.resize(tensor, [size, size], InterpolationMode.BILINEAR, antialias=True)
    return tensor[0]
