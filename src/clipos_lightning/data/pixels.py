"""Images of any mode as 8-bit RGB: value range of deep grey images, transparency, and orientation."""

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

from ..errors import InputError

WHITE = "white"  # default background of transparent images
WHITES = (255, 4095, 65535)  # values of white in images of 8, 12 and 16 bits
BAND = 2**20  # pixels that are converted at a time
TURNS = {  # EXIF orientation to what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS, PHOTOMETRIC, LARGEST, SAMPLE_FORMAT = 258, 262, 281, 339  # TIFF tags: BitsPerSample, …, MaxSampleValue, …
SIGNED = 2  # SampleFormat of signed integers


class UnsupportedPixels(InputError):
    """An image whose values have no certain meaning.

    Attributes:
        reason: what is wrong with the values.
        remedy: what to do, as a sentence.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason, self.remedy = reason, remedy


def as_rgb(image: Image.Image, background: str = WHITE) -> Image.Image:
    """Convert an image to what a viewer shows, as 8-bit RGB without EXIF data.

    Grey values of more than 8 bits are scaled (:func:`white_of`), transparent pixels are blended with the background,
    and the EXIF orientation is applied.

    Args:
        image: of any mode.
        background: a colour name or ``#rrggbb``.

    Raises:
        UnsupportedPixels: the range of the values is unknown.

    >>> as_rgb(Image.new("LA", (4, 2), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> list(as_rgb(Image.fromarray(np.array([[0.0, 0.4, 1.0]], dtype=np.float32))).tobytes())
    [0, 0, 0, 102, 102, 102, 255, 255, 255]
    """
    return as_rgb_turned(image, background)[0]


def as_rgb_turned(image: Image.Image, background: str) -> tuple[Image.Image, int]:
    """:func:`as_rgb`, and the EXIF orientation (1 to 8) by which the stored pixels were turned."""
    check_colour_depth(image)  # first: getexif may load the image
    stored = orientation_of(image)
    image.load()  # turns TIFF files upright
    left = orientation_of(image)
    if image.mode[0] in "IF":
        image = deep_to_rgb(image, background)
    elif image.has_transparency_data:
        image = composite(image, background)
    return upright(image if image.mode == "RGB" else image.convert("RGB"), left), stored


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 if it has none or its EXIF data are broken."""
    with suppress(Exception):  # broken EXIF data raises all kinds of errors
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in TURNS else 1
    return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn stored pixels upright, and drop the EXIF data, which would turn them again.

    >>> upright(Image.new("RGB", (4, 2)), 6).size
    (2, 4)
    """
    if orientation not in TURNS:
        return image
    turned = image.transpose(TURNS[orientation])
    turned.info = {}
    return turned


def check_colour_depth(image: Image.Image) -> None:
    """Check that the 8 bits per colour that Pillow reads show the image.

    Raises:
        UnsupportedPixels: the file has 16 bits per colour and uses the lower 12 only, of which Pillow keeps the upper
            4, or signed values of 8 bits, which Pillow reads as unsigned ones.
    """
    tiles = getattr(image, "tile", None) or ()  # empty if the image is loaded, or not from a file
    if tiles and image.mode == "L" and first(tiff_tags(image).get(SAMPLE_FORMAT)) == SIGNED:
        raise UnsupportedPixels("signed values of 8 bits", "Convert it to unsigned ones")
    if not any(";16" in str(tile[3]) for tile in tiles):
        return
    image.load()
    if image.mode in ("RGB", "RGBA"):
        brightest = largest_colour(image)
        if brightest <= WHITES[1] // 256 and (brightest or has_lower_bits(image, tiles)):
            raise UnsupportedPixels("16-bit colours with values up to 4095 only", "Convert it to 8 bits per colour")


def has_lower_bits(image: Image.Image, tiles: Sequence[Any]) -> bool:
    """Whether a file with 16 bits per colour, whose upper bytes are 0, has other lower bytes, which Pillow drops.

    Args:
        image: opened by its path; otherwise the lower bytes cannot be read again.
        tiles: of the image before it was loaded: decoder, box, offset, and arguments with the order of the bytes.
    """
    if not getattr(image, "filename", "") or not image.format:
        return False
    with Image.open(image.filename, formats=[image.format]) as again:  # type: ignore[attr-defined]
        again.tile = [swap_bytes(tile) for tile in tiles]  # type: ignore[attr-defined]
        return largest_colour(again) > 0


def swap_bytes(tile: Any) -> Any:
    """A tile whose 16-bit values are read in the other order of bytes, so that Pillow keeps the lower ones.

    >>> swap_bytes(("raw", (0, 0, 4, 2), 8, ("RGB;16L", 0, 1)))
    ('raw', (0, 0, 4, 2), 8, ('RGB;16B', 0, 1))
    """
    native = "B" if sys.byteorder == "little" else "L"
    order = {";16L": ";16B", ";16B": ";16L", ";16N": f";16{native}"}
    given = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    swapped = tuple(re.sub(";16[LBN]", lambda m: order[m[0]], one) if isinstance(one, str) else one for one in given)
    arguments = swapped if isinstance(tile[3], tuple) else swapped[0]
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)


def largest_colour(image: Image.Image) -> int:
    """The largest red, green or blue value of an image."""
    extrema: Any = image.getextrema()
    return max(high for _, high in extrema[:3])


def composite(image: Image.Image, background: str) -> Image.Image:
    """Blend an image that has transparent pixels with a background: alpha * colour + (1 - alpha) * background.

    >>> composite(Image.new("RGBA", (1, 1), (255, 0, 0, 102)), "#000000").getpixel((0, 0))
    (102, 0, 0)
    """
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    flat = Image.new("RGB", image.size, background)
    flat.paste(image, mask=image)
    return flat


# ---- grey images of more than 8 bits


def deep_to_rgb(image: Image.Image, background: str) -> Image.Image:
    """Convert a grey image of 16- or 32-bit integers or floats to RGB.

    Raises:
        UnsupportedPixels: see :func:`white_of`.
    """
    declared, inverted = declared_white(image), stores_white_as_zero(image)
    white = white_of(*value_range(image), image.mode == "F", declared, largest_of_format(image))
    hidden = image.info.get("transparency")  # a grey value that is transparent
    grey, mask = Image.new("L", image.size), Image.new("L", image.size, 255) if isinstance(hidden, int) else None
    for top, values in bands(image):
        part = np.rint(np.clip(values / np.float64(white), 0, 1) * 255).astype(np.uint8)
        grey.paste(Image.fromarray(255 - part if inverted else part), (0, top))
        if mask is not None:
            mask.paste(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)), (0, top))
    if mask is None:
        return grey.convert("RGB")
    flat = Image.new("RGB", image.size, background)
    flat.paste(grey.convert("RGB"), mask=mask)
    return flat


def bands(image: Image.Image) -> Any:
    """Yield the rows of a grey image in bands of about :data:`BAND` pixels: (first row, values (rows, width))."""
    image.load()
    if image.mode not in ("I;16", "I", "F"):  # other orders of bytes cannot be cropped
        image = image.convert("I")
    rows = max(1, BAND // max(1, image.width))
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(image.height, top + rows)))
        yield top, np.asarray(part)


def value_range(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest value of a grey image; NaN if one is NaN."""
    ends: list[NDArray[np.float64]] = [np.array([v.min(), v.max()], dtype=np.float64) for _, v in bands(image)]
    both = np.stack(ends)
    return float(both[:, 0].min()), float(both[:, 1].max())


def white_of(low: float, high: float, floats: bool, declared: int | None = None, largest: int = WHITES[-1]) -> float:
    """The value that is shown as white; 0 is black.

    It is what the file declares, else the smallest of 1 (floats only), 255, 4095 and ``largest`` that no value exceeds:
    the usual ranges of 8, 12 and 16 bits. Floats may exceed a range by half a grey level (1/510 of it), from rounding.

    Args:
        low: the smallest value of the image.
        high: the largest value.
        floats: whether the values are floats.
        declared: white according to the file; None: not declared.
        largest: largest value of the format: 65535, or 32767 for signed values of 16 bits.

    Raises:
        UnsupportedPixels: a value is negative, not finite or above ``largest``, or floats are above 1 but all below 16,
            so that they fit neither 0 to 1 nor 0 to 255.

    >>> white_of(0, 3000, floats=False), white_of(0.0, 0.7, floats=True), white_of(0, 900, False, declared=1023)
    (4095, 1, 1023)
    """
    whites = (*((1,) if floats else ()), *WHITES[:-1], largest)
    slack = 1 / 510 if floats else 0.0
    found = next((w for w in whites if high <= w * (1 + slack)), None)
    if not np.isfinite([low, high]).all():
        raise UnsupportedPixels("values that are not finite (NaN or infinite)", "Convert it to 8 or 16 bits")
    if found is None or low < -slack * found or (floats and 1 < found and high < 16):
        ranges = ", ".join(f"0 to {w}" for w in whites) if floats else f"0 to {largest}"
        raise UnsupportedPixels(f"values from {low:.6g} to {high:.6g}, outside {ranges}", "Convert it to 8 or 16 bits")
    return found if declared is None or declared < high else declared


def declared_white(image: Image.Image) -> int | None:
    """White according to the file: its bits per sample or largest value (TIFF), or its format (PGM, JPEG 2000).

    A TIFF's MaxSampleValue counts only if it is 2^n - 1 with n from 8 to 16: otherwise it is a statistic of the image.
    """
    if image.format in ("PPM", "JPEG2000") and image.mode != "F":
        return 65535  # Pillow scales their own maximum to this
    tags = tiff_tags(image)
    if image.mode == "F":
        return None
    depths = {2**n - 1 for n in range(8, 17)}
    bits, largest = (first(tags.get(tag)) for tag in (BITS, LARGEST))
    if largest in depths:
        return largest
    return 2**bits - 1 if bits is not None and 8 < bits < 16 else None


def largest_of_format(image: Image.Image) -> int:
    """The largest value of 16-bit integers: 32767 for a TIFF with signed ones."""
    tags = tiff_tags(image)
    signed = first(tags.get(SAMPLE_FORMAT)) == SIGNED and first(tags.get(BITS)) == 16
    return WHITES[-1] // 2 if signed else WHITES[-1]


def tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF file; of other images none."""
    tags = getattr(image, "tag_v2", None)
    return tags if isinstance(tags, TiffImagePlugin.ImageFileDirectory_v2) else {}


def first(value: Any) -> int | None:
    """The first number of a TIFF tag; None if it has none."""
    number = value[0] if isinstance(value, tuple) and value else value
    return number if isinstance(number, int) else None


def stores_white_as_zero(image: Image.Image) -> bool:
    """Whether 0 is white, as in many X-ray images (PhotometricInterpretation 0 of TIFF)."""
    return first(tiff_tags(image).get(PHOTOMETRIC)) == 0
