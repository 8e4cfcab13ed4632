"""``--data.ood_resolution id``: OOD images are scaled down to the ID images' native size before the model's resize."""

from collections.abc import Sequence

from ..errors import InputError
from .image_sets import ImageSample, ImageSet
from .pixels import as_rgb
from .transforms import resize_and_crop


class DownscaledSet(ImageSet):
    """An image set scaled down to a given side: shorter side to ``side`` (bicubic, antialiased), then a centre crop.

    Images whose shorter side is at most ``side`` stay as they are.

    Args:
        images: the set.
        side: in pixels.
    """

    def __init__(self, images: ImageSet, side: int) -> None:
        super().__init__(images.name, images.keys, images.labels)
        self.images, self.side = images, side

    def read(self, position: int) -> ImageSample:
        """The image, scaled down."""
        image = as_rgb(self.images.read(position).image)
        return ImageSample(resize_and_crop(image, self.side) if min(image.size) > self.side else image)


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
