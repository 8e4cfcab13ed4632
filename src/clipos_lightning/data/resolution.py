"""``--data.ood_resolution id``: OOD images are scaled down to the ID images' native size before the model's resize."""

from collections.abc import Sequence

from ..errors import InputError
from .image_sets import ImageSample, ImageSet
from .pixels import as_rgb
from .preprocessing import Preprocessing
from .transforms import resize_image


class DownscaledSet(ImageSet):
    """An image set scaled down to a given side, with the model's own resizing and cropping or padding.

    Images that are not larger (the longer side, if the model pads; otherwise the shorter one) stay as they are.

    Args:
        images: the set.
        preprocessing: of the model, with this side as its size.
    """

    def __init__(self, images: ImageSet, preprocessing: Preprocessing) -> None:
        super().__init__(images.name, images.keys, images.labels)
        self.images, self.preprocessing = images, preprocessing

    def read(self, position: int) -> ImageSample:
        """The image, scaled down."""
        image = as_rgb(self.images.read(position).image)
        side = (max if self.preprocessing.resize_mode == "longest" else min)(image.size)
        return ImageSample(resize_image(image, self.preprocessing) if side > self.preprocessing.size else image)


def native_side(images: ImageSet, positions: Sequence[int] | None = None) -> int:
    """The side in pixels of square images of one size, from the headers of the files.

    Args:
        images: the set.
        positions: of the images; None: all.

    Raises:
        InputError: the images are not square, or differ in size.
    """
    positions = range(len(images)) if positions is None else positions
    width, height = images.size(positions[0])
    for i in positions[:1] if images.uniform_size else positions:
        size = images.size(i)
        if size != (width, height) or width != height:
            others = f" and {size[0]}x{size[1]}" if size != (width, height) else ""
            raise InputError(
                f"--data.ood_resolution id: the images of the ID set {images.name!r} are not squares of one size "
                f"({width}x{height}{others}); use --data.ood_resolution native"
            )
    return width
