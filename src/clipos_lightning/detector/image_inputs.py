"""The forms in which images are given to a detector: paths, PIL images, arrays and tensors."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..data.decoding import Decoding, open_image
from ..data.pixels import as_rgb
from ..errors import InputError

ImageInput = Image.Image | str | Path | Tensor | NDArray[np.uint8]


def as_list(images: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    """A list of image inputs; a single input, which may be a batch as a tensor, becomes a list of one."""
    return [images] if is_single_input(images) else list(images)  # type: ignore[list-item, arg-type]


def is_single_input(images: ImageInput | Iterable[ImageInput]) -> bool:
    """Whether this is one input, not an iterable of inputs; an array of numbers is an image, one of paths is not."""
    if isinstance(images, np.ndarray):
        return images.dtype.kind not in "OSU"
    return isinstance(images, Image.Image | str | Path | Tensor)


def open_images(image: ImageInput, decoding: Decoding) -> Iterator[Image.Image]:
    """Yield the RGB image of a path, an array or a tensor, or each image of a batch.

    Args:
        image: in any of the forms.
        decoding: how files and PIL images become pixels.

    Raises:
        InputError: the image cannot be read, or the input is not an image.
    """
    if isinstance(image, str | Path):
        yield open_image(Path(image), decoding)
    elif isinstance(image, Image.Image):
        yield as_rgb(image, decoding.background)
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            given = f"{image.dtype} of shape {image.shape}"
            raise InputError(f"an image as an array is uint8 RGB, (H, W, 3), not {given}; give several as a list")
        yield Image.fromarray(image)
    elif not isinstance(image, Tensor):
        raise InputError(
            f"an image is given as a PIL image, a path, a uint8 array or a uint8 tensor, not a {type(image).__name__}"
        )
    elif image.dtype != torch.uint8 or image.ndim not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape[-2:]:
        given = f"{image.dtype} of shape {tuple(image.shape)}"
        raise InputError(f"an image as a tensor is uint8, (3, H, W) or (B, 3, H, W), not {given}")
    else:
        for pixels in image[None] if image.ndim == 3 else image:
            yield Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
