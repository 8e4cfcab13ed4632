"""A model's image preprocessing up to the normalisation, as uint8 tensors; random views for augmentation."""

import hashlib
from math import exp, log, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tf

from ..types import Images
from .pixels import as_rgb
from .preprocessing import Preprocessing

VIEW_SCALE = (0.5, 1.0)  # area of a view's crop, relative to the image
VIEW_RATIO = (3 / 4, 4 / 3)  # width / height of a view's crop
MAX_RATIO = 8  # longer / shorter side of images that are resized as a whole before a crop


def to_model_size(
    image: Image.Image, preprocessing: Preprocessing
) -> UInt8[Tensor, "3 {preprocessing.size} {preprocessing.size}"]:
    """Convert an image to RGB, and resize and crop or pad it to the model's input.

    Args:
        image: of any mode and size.
        preprocessing: of the model.

    Returns:
        uint8 (3, size, size).

    >>> to_model_size(Image.new("L", (40, 30)), Preprocessing(32)).shape
    torch.Size([3, 32, 32])
    """
    return as_tensor(resize_image(as_rgb(image), preprocessing))


def resize_image(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize an RGB image and crop or pad it at its centre, as open_clip does: (size, size)."""
    size, kind = preprocessing.size, preprocessing.filter
    if image.size == (size, size):
        return image
    if preprocessing.resize_mode == "shortest" and is_long(*image.size):
        return image.resize((size, size), kind, central_box(*image.size, size))
    scaled = scaled_size(*image.size, preprocessing)
    image = image.resize(scaled, kind)
    if min(scaled) == size:
        return tf.center_crop(image, [size, size])
    padded = Image.new("RGB", (size, size), (preprocessing.fill_color,) * 3)
    padded.paste(image, ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
    return padded


def scaled_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height of an image after resizing, before it is cropped or padded; rounded as open_clip does.

    >>> [scaled_size(90, 40, Preprocessing(20, mode)) for mode in ("shortest", "longest", "squash")]
    [(45, 20), (20, 9), (20, 20)]
    """
    size = preprocessing.size
    if preprocessing.resize_mode == "squash":
        return size, size
    if preprocessing.resize_mode == "longest":
        ratio = max(width / size, height / size)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    shorter = min(width, height)
    return int(size * width / shorter), int(size * height / shorter)


def is_long(width: int, height: int) -> bool:
    """Whether an image is so long that only the pixels of the crop are computed, to limit the memory.

    Scaled as a whole, an image of 15,000 x 1 pixels would have millions of columns, nearly all of which are cropped.
    """
    return max(width, height) > MAX_RATIO * min(width, height)


def central_box(width: int, height: int, size: int) -> tuple[float, float, float, float]:
    """The part of an image that remains after scaling its shorter side to ``size`` and cropping the centre.

    As in torchvision, the scaled longer side is rounded down, and the crop starts at a whole scaled pixel.

    Returns:
        left, top, right and bottom in pixels of the image.

    >>> central_box(80, 40, 20)
    (20.0, 0.0, 60.0, 40.0)
    """
    ends = []
    for side in (width, height):
        scaled = int(size * side / min(width, height))
        start = round((scaled - size) / 2)
        ends.append((start * side / scaled, min((start + size) * side / scaled, side)))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def as_tensor(image: Image.Image) -> UInt8[Tensor, "3 height width"]:
    """Convert an RGB image to a uint8 tensor (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def batch_to_model_size(
    images: NDArray[np.uint8], preprocessing: Preprocessing
) -> UInt8[Tensor, "batch 3 {preprocessing.size} {preprocessing.size}"]:
    """:func:`to_model_size` for many RGB images at once, with torch's interpolation of bytes.

    Pixels differ from PIL's by at most 1/255, and by 2/255 in about one of a million (docs/data.md). Images that are
    not square are resized by PIL.

    Args:
        images: (N, H, W, 3).
        preprocessing: of the model.

    Returns:
        uint8 (N, 3, size, size).

    >>> batch_to_model_size(np.zeros((2, 24, 24, 3), dtype=np.uint8), Preprocessing(32)).shape
    torch.Size([2, 3, 32, 32])
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    height, width = pixels.shape[2:]
    if height != width:  # PIL crops or pads these
        return torch.stack([to_model_size(Image.fromarray(image), preprocessing) for image in images])
    size, mode = preprocessing.size, preprocessing.interpolation
    if height != size:
        pixels = F.interpolate(pixels, (size, size), mode=mode, antialias=True)
    return pixels.contiguous()


def resize_on_device(
    pixels: Images, preprocessing: Preprocessing
) -> UInt8[Tensor, "batch 3 {preprocessing.size} {preprocessing.size}"]:
    """Resize square images on the device they are on: antialiased, in two passes rounded to bytes, as in PIL.

    Pixels differ from PIL's by 1/255 in a few of 100,000 pixels of 32-pixel images resized to 224 (docs/data.md).
    Square images need no crop and no padding, whatever the resize mode.

    Args:
        pixels: uint8 (N, 3, S, S).
        preprocessing: of the model.

    Returns:
        uint8 (N, 3, size, size).
    """
    size, mode = preprocessing.size, preprocessing.interpolation
    for shape in ((pixels.shape[2], size), (size, size)):
        resized = F.interpolate(pixels.float(), shape, mode=mode, antialias=True)
        pixels = resized.add_(0.5).floor_().clamp_(0, 255).byte()  # halves are rounded up, as in PIL
    return pixels


def view_rng(seed: int, class_key: str, image_key: str, view: int) -> np.random.Generator:
    """The random generator of one view of an image: a pure function of its arguments, the same on every machine.

    Args:
        seed: seed of the few-shot draw.
        class_key: folder name of the class, or its index as text.
        image_key: the image's path inside the class folder, or its index in the training set.
        view: number of the view, from 1 (view 0 is the image itself); negative: of a crop.
    """
    digest = hashlib.sha256(f"{seed}/{class_key}/{image_key}/{view}".encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def view(
    image: Image.Image,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    scale: tuple[float, float] = VIEW_SCALE,
) -> UInt8[Tensor, "3 {preprocessing.size} {preprocessing.size}"]:
    """A random view: a crop, mirrored with probability 1/2, resized to the model's input (not padded in any mode).

    The crop has by default 50-100 % of the image's area and an aspect ratio of 3/4-4/3; it is limited to the image
    where it would be wider or higher.

    Args:
        image: of any mode and size.
        preprocessing: of the model.
        rng: from :func:`view_rng`; five numbers are drawn.
        scale: smallest and largest area of the crop, relative to the image.

    Returns:
        uint8 (3, size, size).

    >>> view(Image.new("RGB", (40, 30)), Preprocessing(32), view_rng(1, "cat", "0.png", 1)).shape
    torch.Size([3, 32, 32])
    """
    image = as_rgb(image)
    area, shape, left, top, mirror = rng.random(5).tolist()
    area = (scale[0] + area * (scale[1] - scale[0])) * image.width * image.height
    ratio = exp(log(VIEW_RATIO[0]) + shape * (log(VIEW_RATIO[1]) - log(VIEW_RATIO[0])))
    width = max(1, min(image.width, round(sqrt(area * ratio))))
    height = max(1, min(image.height, round(sqrt(area / ratio))))
    x, y = round(left * (image.width - width)), round(top * (image.height - height))
    size = preprocessing.size
    crop = image.crop((x, y, x + width, y + height)).resize((size, size), preprocessing.filter)
    return as_tensor(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror < 0.5 else crop)


def mask_to_model_size(
    mask: NDArray[np.float32], preprocessing: Preprocessing
) -> Float[Tensor, "{preprocessing.size} {preprocessing.size}"]:
    """Resize and crop or pad a ground-truth mask (H, W) in [0, 1] as its image: (size, size), 0 in the padding."""
    size, (height, width) = preprocessing.size, mask.shape
    if preprocessing.resize_mode == "shortest" and is_long(width, height):
        box = central_box(width, height, size)
        resized = Image.fromarray(mask).resize((size, size), Image.Resampling.BILINEAR, box)
        return torch.from_numpy(np.array(resized))
    tensor = torch.from_numpy(mask)[None]
    if mask.shape != (size, size):
        columns, rows = scaled_size(width, height, preprocessing)
        resized = tf.resize(tensor, [rows, columns], InterpolationMode.BILINEAR, antialias=True)
        tensor = tf.center_crop(resized, [size, size])  # pads with 0 where it is smaller
    return tensor[0]
