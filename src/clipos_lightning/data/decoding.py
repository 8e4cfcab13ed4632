"""Decode image files: which formats, up to which size, and one line about each file that cannot be read."""

import logging
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor, TiffImagePlugin, UnidentifiedImageError

from ..errors import InputError
from .image_files import reading_hint, register_heif, suffix_of
from .pixels import BITS, SAMPLE_FORMAT, WHITE, UnsupportedPixels, as_rgb_turned

MAX_PIXELS = 2 * 89_478_485  # Pillow's own limit
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")  # no other programs
REPAIR = "repair it, or remove it from the folder"
SAMPLE_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}
NAMED = 3  # unreadable images that an error names


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels.

    Attributes:
        background: colour behind transparent pixels, a name or ``#rrggbb``.
        max_pixels: images with more pixels are not read, to limit the memory: about 4 to 8 bytes per pixel.
    """

    background: str = WHITE
    max_pixels: int = MAX_PIXELS

    def check(self, prefix: str = "") -> "Decoding":
        """Return these options after checking them.

        Args:
            prefix: of the options' names in messages.

        Raises:
            InputError: the background is not a colour, or the limit is not positive.
        """
        try:
            opaque = len(ImageColor.getrgb(self.background)) == 3
        except ValueError:
            opaque = False
        if not opaque:
            raise InputError(f"{prefix}background is {self.background!r}: it must be a colour name or #rrggbb")
        if self.max_pixels < 1:
            raise InputError(f"{prefix}max_pixels is {self.max_pixels}: it must be at least 1")
        return self


DEFAULT = Decoding()


def open_image(path: Path, decoding: Decoding = DEFAULT) -> Image.Image:
    """Decode an image file to RGB, upright; transparent pixels get the background.

    Raises:
        InputError: the file cannot be read, is truncated, or is not an image.
    """
    return open_turned(path, decoding)[0]


def open_turned(path: Path, decoding: Decoding = DEFAULT) -> tuple[Image.Image, int]:
    """:func:`open_image`, and the EXIF orientation (1 to 8) by which the stored pixels were turned."""
    with readable(path, decoding) as image:
        return as_rgb_turned(image, decoding.background)


def image_size(path: Path, decoding: Decoding = DEFAULT) -> tuple[int, int]:
    """Width and height from the header of a file; its pixels are not decoded.

    Raises:
        InputError: the header cannot be read.
    """
    with readable(path, decoding) as image:
        return image.size


@contextmanager
def readable(path: Path, decoding: Decoding) -> Iterator[Image.Image]:
    """Open an image file; any error becomes an InputError that names it.

    Raises:
        InputError: the file or its pixels cannot be read.
    """
    prepare_pillow(decoding.max_pixels)
    try:
        check_regular(path)
        with Image.open(path, formats=formats()) as image:
            check_pixels(image.size, decoding.max_pixels)
            yield image
    except Exception as error:  # decoders raise all kinds of errors
        raise unreadable_image(path, error) from error


def prepare_pillow(max_pixels: int) -> None:
    """Register HEIC, silence Pillow's own messages, and raise its limit of pixels if a higher one was asked for."""
    register_heif()
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    if max_pixels > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, -(-max_pixels // 2))  # Pillow refuses twice as many


@cache
def formats() -> list[str]:
    """Pillow's names of the formats that are read; the others are not asked, since some start other programs."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def check_regular(path: Path) -> None:
    """Raise OSError unless the path leads to a regular file: reading a pipe or a device may never end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        os.scandir(path).close()  # raises if it has no permission
        raise OSError("it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError("it is not a regular file")


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Check that an image is not larger than the limit.

    Raises:
        UnsupportedPixels: it is.
    """
    width, height = size
    if width * height > max_pixels:
        raise UnsupportedPixels(
            f"{width:,} x {height:,} pixels, more than the limit of {max_pixels:,}",
            "Scale it down, or increase --max_pixels (of fit, validate and test: --data.max_pixels)",
        )


def unreadable_image(path: Any, error: Exception) -> InputError:
    """Build the error for an image file that cannot be read: its path, the reason, and what to do."""
    if isinstance(error, UnsupportedPixels):
        return InputError(f"cannot read image {path}: {error.reason}. {error.remedy}")
    if isinstance(error, UnidentifiedImageError):
        reason, remedy = unknown_format(Path(path))
    else:
        text = getattr(error, "strerror", None) or str(error)
        reason, remedy = " ".join(text.split()) or type(error).__name__, REPAIR
    return InputError(f"cannot read image {path}: {reason}. {remedy[0].upper()}{remedy[1:]}")


def many_unreadable(errors: Sequence[str], option: str = "") -> InputError:
    """One error for several images that cannot be read: their number, the first ones, and what to do.

    Args:
        errors: messages of :func:`unreadable_image`, at least one.
        option: that leaves such images out; "": there is none.

    Example:
        >>> print(many_unreadable(["cannot read image a.png: broken. Repair it", "cannot read image b.png: empty. Re"]))
        cannot read 2 images: a.png: broken; b.png: empty. Repair or remove them
    """
    advice = f", or leave them out with {option}" if option else ""
    if len(errors) == 1:
        return InputError(f"{errors[0]}{advice}")
    shown = [error.removeprefix("cannot read image ").partition(". ")[0] for error in errors[:NAMED]]
    more = f"; and {len(errors) - NAMED:,} more" if len(errors) > NAMED else ""
    return InputError(f"cannot read {len(errors):,} images: {'; '.join(shown)}{more}. Repair or remove them{advice}")


def unknown_format(path: Path) -> tuple[str, str]:
    """The reason and the remedy for a file that is none of :data:`FORMATS`, from its suffix and its first bytes."""
    with open(path, "rb") as file:
        name = format_of(file.read(16))
    hint = reading_hint([suffix_of(str(path)), *([".heic"] if name == "HEIF" else [])])
    if name is None or hint:
        return "unknown image format", hint or REPAIR
    if name == "TIFF" and (values := tiff_values(path)):
        return f"a TIFF of {values}, which Pillow cannot read", "convert it to 8 or 16 bits"
    if name in formats():
        return f"broken {name} file, or of a kind that Pillow cannot read", REPAIR
    return f"it is in {name} format, which is not read", "convert it to PNG or JPEG"


def tiff_values(path: Path) -> str:
    """The kind of the values in a TIFF, such as ``64-bit floats``; "" if that cannot be read."""
    with suppress(Exception), open(path, "rb") as file:  # broken headers raise all kinds of errors
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        kind = SAMPLE_FORMATS[tags[SAMPLE_FORMAT][0]]
        return f"{tags[BITS][0]}-bit {kind}"
    return ""


def format_of(start: bytes) -> str | None:
    """The format of a file by its first 16 bytes, in Pillow's terms; None if it is unknown.

    >>> format_of(b"%!PS-Adobe-3.0 E")
    'EPS'
    """
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "HEIF"
    formats()  # registers all formats
    for name, (_, accept) in Image.OPEN.items():
        with suppress(Exception):  # a start that is too short
            if accept is not None and accept(start) is True:
                return name
    return None


def short_reason(path: str, error: str) -> str:
    """The reason in the message of :func:`unreadable_image`, without path and remedy.

    Example:
        >>> short_reason("./a.png", "cannot read image a.png: broken PNG file. Repair it, or remove it from the folder")
        'broken PNG file'
    """
    return error.removeprefix(f"cannot read image {Path(path)}: ").partition(". ")[0]
