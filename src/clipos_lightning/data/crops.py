"""Random crops of the few-shot images, for objectives that choose some of them."""

import torch

from ..types import Images
from .datamodule import FewShotOOD
from .pixels import as_rgb
from .transforms import view, view_rng

CROP_SCALE = (0.08, 1.0)  # area of a crop, relative to the image: the default of torchvision's RandomResizedCrop


def draw_crops(data: FewShotOOD, image: int, numbers: list[int]) -> Images:
    """Random crops of a few-shot image, each mirrored with probability 1/2; the same on every machine.

    Args:
        data: the DataModule, after ``setup("fit")``.
        image: its position in the draw.
        numbers: K numbers of crops, from 0; the same number is the same crop.

    Returns:
        uint8 (K, 3, image_size, image_size).

    Raises:
        InputError: the image cannot be read.
    """
    train, position = data.id_set.train, data.shot_positions[image]
    assert train.labels is not None
    known = data.seed, data.id_set.class_keys[train.labels[position]], train.shot_key(position)
    pixels = as_rgb(train.read(position).image)
    return torch.stack([view(pixels, data.preprocessing, view_rng(*known, -1 - n), CROP_SCALE) for n in numbers])
