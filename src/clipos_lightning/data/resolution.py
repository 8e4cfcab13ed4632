"""``--data.ood_resolution id``: OOD images are scaled down to the ID images' native size before the model's resize."""

from ..errors import InputError
from .image_sets import ImageSample, ImageSet
from .transforms import as_rgb, resize_and_crop


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


def native_side(images: ImageSet) -> int:
    """The side in pixels of a set of square images of one size, from the headers of the files.

    Raises:
        InputError: the images are not square, or differ in size.
    """
    width, height = images.size(0)
    for i in range(len(images)) if not images.uniform_size else range(1):
        size = images.size(i)
        if size != (width, height) or width != height:
            others = f" and {size[0]}x{size[1]}" if size != (width, height) else ""
            raise InputError(
                f"--data.ood_resolution id: the images of the ID set {images.name!r} are not squares of one size "
                f"({width}x{height}{others}); use --data.ood_resolution native"
            )
    return width
