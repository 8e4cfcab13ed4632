"""One picture in every type of number that an image file may have: the same pixels, or a refusal with the reason."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_bytes import png, tiff
from numpy.typing import NDArray
from PIL import Image

from clipos_lightning.data.decoding import open_image
from clipos_lightning.data.pixels import as_rgb, has_lower_bits
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.badinput
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every grey value
COLOUR = np.dstack([GREY, GREY[::-1], GREY.T])
OPAQUE = np.full((16, 16, 1), 255, dtype=np.uint8)
TWELVE = np.rint(GREY / 255 * 4095)
PALETTE = b"".join(bytes([i, 255 - i, i]) for i in range(256))


def of(kind: Any, values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(kind)


def pixels(content: bytes, tmp_path: Path) -> NDArray[np.uint8]:
    (tmp_path / "x").write_bytes(content)
    return np.asarray(open_image(tmp_path / "x"))


READ = ("<u2", ">u2", "<i4", ">i4", "<u4", "<f4", ">f4")  # Pillow does not read >u4


@pytest.mark.parametrize("values", [GREY, TWELVE, GREY * 257.0], ids=["8", "12", "16"])
@pytest.mark.parametrize("kind", READ)
def test_grey_values_of_every_range(kind: str, values: NDArray[Any], tmp_path: Path) -> None:
    order = kind[0]
    seen = pixels(tiff(of(kind, values), order), tmp_path)
    assert (seen == GREY[..., None]).all()
    again = as_rgb(Image.open(tmp_path / "x"))
    assert again.tobytes() == seen.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_values_of_16_bits_end_at_32767(order: str, tmp_path: Path) -> None:
    for values, white in ((GREY * 128.0, 32767), (TWELVE, 4095), (GREY, 255)):
        seen = pixels(tiff(of(np.int16, values), order), tmp_path)
        np.testing.assert_array_equal(seen[..., 0], np.rint(of(int, values) / white * 255))


@pytest.mark.parametrize(
    ("bits", "inverted"), [(1, False), (2, False), (4, False), (12, False), (1, True), (2, True), (4, True)]
)
def test_few_bits(bits: int, inverted: bool, tmp_path: Path) -> None:
    white = 2**bits - 1
    values = np.rint(GREY / 255 * white).astype(np.uint16)
    expected = np.rint(values / white * 255)
    content = tiff(white - values if inverted else values, photometric=int(not inverted), bits=bits)
    np.testing.assert_array_equal(pixels(content, tmp_path)[..., 0], expected)
    if bits < 8:
        np.testing.assert_array_equal(pixels(png(values, bits, 0), tmp_path)[..., 0], expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(of(np.uint16, COLOUR * 257.0), photometric=2), COLOUR),
        (tiff(of(np.uint16, COLOUR * 257.0), ">", photometric=2), COLOUR),
        (tiff(of(np.uint16, np.dstack([COLOUR, OPAQUE]) * 257.0), photometric=2, extra=2), COLOUR),
        (tiff(np.dstack([COLOUR // 2, OPAQUE // 2]), photometric=2, extra=1), 128 + COLOUR // 2),
        (tiff(np.dstack([GREY, OPAQUE]), extra=2), GREY[..., None]),
        (png(COLOUR * 257.0, 16, 2), COLOUR),
        (png(np.dstack([COLOUR, OPAQUE]) * 257.0, 16, 6), COLOUR),
        (png(np.dstack([GREY, OPAQUE]) * 257.0, 16, 4), GREY[..., None]),
        (png(GREY * 257.0, 16, 0, tRNS=struct.pack(">H", 70 * 257)), np.where(GREY == 70, 255, GREY)[..., None]),
        (png(TWELVE, 16, 0, tRNS=bytes(2)), np.where(GREY == 0, 255, GREY)[..., None]),
        (png(GREY > 127, 1, 0, tRNS=bytes(2)), np.full((1, 1, 1), 255)),  # black is transparent, white is white
        (png(GREY, 8, 3, PLTE=PALETTE), np.dstack([GREY, 255 - GREY, GREY])),
    ],
)
def test_colours_transparency_and_palettes(content: bytes, expected: NDArray[Any], tmp_path: Path) -> None:
    seen = pixels(content, tmp_path)
    assert abs(seen.astype(int) - expected).max() <= 1  # 1: premultiplied by a half


def test_the_alpha_of_palette_entries(tmp_path: Path) -> None:
    seen = pixels(png(GREY, 8, 3, PLTE=PALETTE, tRNS=bytes(10)), tmp_path)  # the first ten are transparent
    expected = np.where((GREY < 10)[..., None], 255, np.dstack([GREY, 255 - GREY, GREY]))
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tiff(of(np.float16, GREY / 255)), "a TIFF of 16-bit floats, which Pillow cannot read"),
        (tiff(of(np.float64, GREY / 255), ">"), "a TIFF of 64-bit floats"),
        (tiff(of(np.uint64, GREY)), "a TIFF of 64-bit unsigned integers"),
        (tiff(of(np.int64, GREY)), "a TIFF of 64-bit signed integers"),
        (tiff(of(np.complex64, GREY)), "a TIFF of 64-bit complex floats"),
        (tiff(of(np.float32, COLOUR / 255), photometric=2), "a TIFF of 32-bit floats"),
        (tiff(of(np.uint16, TWELVE), photometric=0, bits=12), "a TIFF of 12-bit unsigned integers"),
        (tiff(of(np.int8, GREY // 2)), "signed values of 8 bits"),
        (tiff(of(np.int16, GREY - 128.0)), "values from -128 to 127, outside 0 to 32767"),
        (tiff(of(np.uint32, GREY * 2.0**24)), "outside 0 to 65535"),
        (tiff(of(np.uint16, np.rint(COLOUR / 255 * 4095)), photometric=2), "16-bit colours with values up to 4095"),
        (tiff(of(np.uint16, COLOUR), photometric=2), "16-bit colours with values up to 4095 only"),
        (tiff(of(np.uint16, COLOUR), ">", photometric=2), "16-bit colours with values up to 4095 only"),
        (png(COLOUR, 16, 2), "16-bit colours with values up to 4095 only"),
        (png(np.dstack([COLOUR, OPAQUE * 257.0]), 16, 6), "16-bit colours with values up to 4095 only"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_reason(content: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^cannot read image {tmp_path}/x: .*{says}.*\. Convert it to"):
        pixels(content, tmp_path)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_black_images_of_16_bit_colours_are_black(name: str, tmp_path: Path) -> None:
    black = np.zeros((4, 3, 3), np.uint16)
    (tmp_path / name).write_bytes(png(black, 16, 2) if name == "x.png" else tiff(black, photometric=2))
    assert open_image(tmp_path / name).getextrema() == ((0, 0),) * 3
    with open(tmp_path / name, "rb") as file:  # its lower bytes cannot be read again
        assert as_rgb(Image.open(file)).getextrema() == ((0, 0),) * 3
    assert not has_lower_bits(Image.new("RGB", (2, 2)), [])
