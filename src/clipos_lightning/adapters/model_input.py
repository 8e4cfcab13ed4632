"""From the images and batches of other libraries' data loaders to a detector's input."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..data.decoding import Decoding
from ..data.pixels import WHITE
from ..data.preprocessing import Preprocessing
from ..data.transforms import to_model_size
from ..detector.detector import Detector
from ..detector.image_inputs import ImageInput, open_images
from ..errors import InputError
from ..types import Images

USE_TRANSFORM = "give the data sets the adapter's transform"
WHOLE = 1e-3  # how far 255 x may be from a whole number, for the rounding of fp32


@dataclass(frozen=True)
class ModelTransform:
    """The transform of a data set whose images a detector scores; small, so that worker processes get it quickly.

    Attributes:
        preprocessing: of the detector's backbone.
        background: colour behind transparent pixels.
        mean: of a normalisation that was applied, for OpenOOD, which asks the last transform: none, the model does it.
        std: as ``mean``.

    Example:
        >>> from PIL import Image
        >>> pixels = ModelTransform(Preprocessing(32))(Image.new("L", (40, 30)))
        >>> pixels.shape, pixels.dtype
        (torch.Size([3, 32, 32]), torch.uint8)
    """

    preprocessing: Preprocessing
    background: str = WHITE
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def of(cls, detector: Detector) -> "ModelTransform":
        """The transform of a detector's images."""
        return cls(detector.backbone.preprocessing, detector.background)

    def __call__(self, image: ImageInput) -> UInt8[Tensor, "3 {self.preprocessing.size} {self.preprocessing.size}"]:
        """Resize and crop or pad an image of any mode and size: uint8, (3, S, S).

        Raises:
            InputError: the image cannot be read, or a tensor or array is not an image.
        """
        return to_model_size(next(open_images(image, Decoding(self.background))), self.preprocessing)


def as_detector(detector: Detector | str | Path) -> Detector:
    """The detector, loaded if a file is given (:meth:`Detector.load`)."""
    return detector if isinstance(detector, Detector) else Detector.load(detector)


def model_pixels(batch: Tensor, detector: Detector) -> Images:
    """A data loader's batch as uint8 images of the model's size, (B, 3, S, S).

    Args:
        batch: images of any size, (B, 3, H, W): uint8, or floats in [0, 1] as torchvision's ``ToTensor`` makes them.
        detector: resizes images of another size as it does files.

    Raises:
        InputError: not such a batch, such as one that was normalised.
    """
    if not isinstance(batch, Tensor) or batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
        given = f"{batch.dtype} of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise InputError(f"a batch of images is a tensor (B, 3, H, W), not {given}: {USE_TRANSFORM}")
    pixels = whole_pixels(batch) if batch.is_floating_point() else batch
    if pixels.dtype != torch.uint8:
        raise InputError(f"a batch of images is uint8, or float in [0, 1], not {batch.dtype}: {USE_TRANSFORM}")
    size = detector.backbone.image_size
    return pixels if pixels.shape[2:] == (size, size) else detector.prepare(pixels)


def whole_pixels(batch: Float[Tensor, "batch 3 height width"]) -> Images:
    """Undo torchvision's ``ToTensor``: x to 255 x, which must be whole numbers.

    Raises:
        InputError: they are not, so the images were normalised, or resized as floats.

    Example:
        >>> whole_pixels(torch.tensor([0.0, 0.2, 1.0]).reshape(1, 3, 1, 1)).flatten().tolist()
        [0, 51, 255]
    """
    scaled = 255 * batch.float()
    rounded = scaled.round()
    if not (rounded.min() >= 0 and rounded.max() <= 255 and (scaled - rounded).abs().max() < WHOLE):
        raise InputError(
            f"images as floats are multiples of 1/255 in [0, 1]; these were normalised or resized: {USE_TRANSFORM}"
        )
    return rounded.byte()
