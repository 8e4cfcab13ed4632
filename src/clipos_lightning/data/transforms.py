"""From a picture to the model's size: CLIP's own preprocessing up to the normalisation, as uint8; augmented views."""

import hashlib
from contextlib import suppress
from math import exp, log, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tf

VIEW_SCALE = (0.5, 1.0)  # of the picture's area that a view shows
VIEW_RATIO = (3 / 4, 4 / 3)  # width to height


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB, upright as its EXIF orientation says, 16-bit grey scaled down rather than clipped to white."""
    with suppress(Exception):  # EXIF data may be broken in any way
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def to_model_size(image: Image.Image, size: int) -> Tensor:
    """Shorter side to ``size`` (bicubic, antialiased), centre crop, RGB; uint8 (3, size, size)."""
    return as_tensor(to_side(as_rgb(image), size))


def to_side(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to ``size`` (bicubic, antialiased), centre crop."""
    if image.size == (size, size):
        return image
    return tf.center_crop(tf.resize(image, [size], InterpolationMode.BICUBIC), [size, size])


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def batch_to_model_size(images: NDArray[np.uint8], size: int) -> Tensor:
    """Many pictures (N, H, W, 3) at once, by torch's bicubic for bytes; uint8 (N, 3, size, size).

    Where PIL rounds differently a pixel is off by 1/255, by 2/255 in about one of a million (docs/data.md).
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    height, width = pixels.shape[2:]
    if height != width:  # the crop is PIL's
        return torch.stack([to_model_size(Image.fromarray(image), size) for image in images])
    if height != size:
        pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return pixels.contiguous()


def resize_where_it_is(pixels: Tensor, size: int) -> Tensor:
    """Square pictures, uint8 (N, 3, S, S), to (N, 3, size, size) on whatever device they are.

    Bicubic, antialiased, in PIL's two passes, each rounded to bytes: off by 1/255 in a few of 100,000 pixels of 32-px
    pictures brought to 224 (docs/data.md).
    """
    wide = F.interpolate(pixels.float(), (pixels.shape[2], size), mode="bicubic", antialias=True)
    wide = wide.round_().clamp_(0, 255)
    return F.interpolate(wide, (size, size), mode="bicubic", antialias=True).round_().clamp_(0, 255).byte()


def view_rng(seed: int, class_key: str, image_key: str, view: int) -> np.random.Generator:
    """What view ``view`` of an image is drawn with: a pure function of these four, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{class_key}/{image_key}/{view}".encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def view(image: Image.Image, size: int, rng: np.random.Generator) -> Tensor:
    """A random crop of the picture, perhaps mirrored, at the model's size; uint8 (3, size, size).

    The crop shows 50-100 % of the area at a ratio of 3/4-4/3, cut to the picture where it would be wider or higher.

    Args:
        image: the picture.
        size: the model's.
        rng: of :func:`view_rng`; five numbers are drawn.
    """
    image = as_rgb(image)
    area, shape, left, top, mirror = rng.random(5).tolist()
    area = (VIEW_SCALE[0] + area * (VIEW_SCALE[1] - VIEW_SCALE[0])) * image.width * image.height
    ratio = exp(log(VIEW_RATIO[0]) + shape * (log(VIEW_RATIO[1]) - log(VIEW_RATIO[0])))
    width = max(1, min(image.width, round(sqrt(area * ratio))))
    height = max(1, min(image.height, round(sqrt(area / ratio))))
    x, y = round(left * (image.width - width)), round(top * (image.height - height))
    seen = image.crop((x, y, x + width, y + height)).resize((size, size), Image.Resampling.BICUBIC)
    return as_tensor(seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror < 0.5 else seen)


def mask_to_model_size(mask: NDArray[np.float32], size: int) -> Tensor:
    """A true object mask (H, W) in [0, 1] as :func:`to_model_size` brings its image there; (size, size)."""
    tensor = torch.from_numpy(mask)[None]
    if mask.shape != (size, size):
        tensor = tf.center_crop(tf.resize(tensor, [size], InterpolationMode.BILINEAR, antialias=True), [size, size])
    return tensor[0]
