"""OOD images at the ID set's resolution: first down to the ID images' own size, then up with everything else."""

from ..errors import InputError
from .image_sets import ImageSet, LabelledPicture
from .transforms import as_rgb, to_side


class ReducedSet(ImageSet):
    """A set whose images are scaled down: shorter side to ``side`` (CLIP's bicubic, antialiased), centre crop.

    An image whose shorter side is no larger stays as it is.
    """

    def __init__(self, images: ImageSet, side: int) -> None:
        super().__init__(images.name, images.keys, images.labels)
        self.images, self.side = images, side

    def read(self, position: int) -> LabelledPicture:
        """The image, scaled down."""
        image = as_rgb(self.images.read(position).image)
        return LabelledPicture(to_side(image, self.side) if min(image.size) > self.side else image)


def native_side(images: ImageSet) -> int:
    """The side of a set's images, where all are squares of one size: read from the files' heads.

    Raises:
        InputError: they are not.
    """
    width, height = images.size(0)
    for i in range(len(images)) if not images.one_size else range(1):
        size = images.size(i)
        if size != (width, height) or width != height:
            others = f" and {size[0]}x{size[1]}" if size != (width, height) else ""
            raise InputError(
                f"--data.ood_resolution id: the ID set {images.name!r} has no one square size (its images are "
                f"{width}x{height}{others}); take native"
            )
    return width
