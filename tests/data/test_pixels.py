"""Images of any mode as 8-bit RGB: exact values of deep grey images, transparency, orientation."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from clipos_lightning.data.decoding import Decoding, open_image, open_turned
from clipos_lightning.data.pixels import UnsupportedPixels, as_rgb, upright, white_of
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.badinput

GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every grey value
LARGEST, PHOTOMETRIC = 281, 262  # TIFF tags


def grey_of(path: Path) -> NDArray[np.uint8]:
    """The grey values of an image file, whose three channels must be equal."""
    pixels = np.asarray(open_image(path))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


# ---- value ranges


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("8-bit.png", GREYS),
        ("8-bit.tif", GREYS),
        ("16-bit.png", GREYS.astype(np.uint16) * 257),
        ("16-bit.tif", GREYS.astype(np.uint16) * 257),
        ("12-bit.png", np.rint(GREYS / 255 * 4095).astype(np.uint16)),
        ("12-bit.tif", np.rint(GREYS / 255 * 4095).astype(np.uint16)),
        ("8-bit-in-16.tif", GREYS.astype(np.uint16)),
        ("8-bit-in-32.tif", GREYS.astype(np.int32)),
        ("12-bit-in-32.tif", np.rint(GREYS / 255 * 4095).astype(np.int32)),
        ("16-bit-in-32.tif", GREYS.astype(np.int32) * 257),
        ("float-1.tif", (GREYS / 255).astype(np.float32)),
        ("float-255.tif", GREYS.astype(np.float32)),
        ("float-65535.tif", GREYS.astype(np.float32) * 257),
        ("float.pfm", (GREYS / 255).astype(np.float32)),
        ("16-bit.pgm", GREYS.astype(np.int32) * 257),
    ],
)
def test_the_same_picture_in_every_container(name: str, values: NDArray[np.generic], tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / name)
    np.testing.assert_array_equal(grey_of(tmp_path / name), GREYS)
    np.testing.assert_array_equal(np.asarray(as_rgb(Image.open(tmp_path / name)))[..., 0], GREYS)


@pytest.mark.parametrize(("largest", "white"), [(1023, 1023), (4095, 4095), (16383, 16383), (65535, 65535)])
def test_a_bit_depth_that_a_tiff_declares(largest: int, white: int, tmp_path: Path) -> None:
    values = np.array([[0, 300, 600, 900]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={LARGEST: largest})
    np.testing.assert_array_equal(grey_of(tmp_path / "x.tif"), np.rint(values / white * 255))


def test_a_largest_value_that_is_a_statistic_or_wrong_is_not_white(tmp_path: Path) -> None:
    values = np.array([[0, 500, 3000]], dtype=np.uint16)
    for largest in (3000, 1023):
        Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={LARGEST: largest})
        np.testing.assert_array_equal(grey_of(tmp_path / "x.tif"), np.rint(values / 4095 * 255))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_zero_is_white_where_the_tiff_says_so(dtype: type, tmp_path: Path) -> None:
    values = (GREYS.astype(dtype) * 257) if dtype is np.uint16 else (GREYS / 255).astype(dtype)
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={PHOTOMETRIC: 0})
    if Image.open(tmp_path / "x.tif").tag_v2[PHOTOMETRIC] != 0:
        pytest.skip("this Pillow does not write the tag")
    np.testing.assert_array_equal(grey_of(tmp_path / "x.tif"), 255 - GREYS)


def test_large_images_are_converted_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((37, 11)).astype(np.float32)
    whole = as_rgb(Image.fromarray(values)).tobytes()
    monkeypatch.setattr("clipos_lightning.data.pixels.BAND", 25)
    assert as_rgb(Image.fromarray(values)).tobytes() == whole
    np.testing.assert_array_equal(np.frombuffer(whole, np.uint8)[::3], np.rint(values.ravel() * 255))


@pytest.mark.parametrize(
    ("values", "piece"),
    [
        (np.array([[0.5, np.nan]], np.float32), "not finite"),
        (np.array([[0.5, np.inf]], np.float32), "not finite"),
        (np.array([[-np.inf, 0.5]], np.float32), "not finite"),
        (np.array([[-1.0, 1.0]], np.float32), "values from -1 to 1, outside 0 to 1, 0 to 255"),
        (np.array([[0.0, 1.5]], np.float32), "values from 0 to 1.5"),
        (np.array([[0.0, 1e6]], np.float32), "values from 0 to 1e+06"),
        (np.array([[-5, 900]], np.int32), "values from -5 to 900, outside 0 to 65535"),
        (np.array([[0, 2**31 - 1]], np.int32), "outside 0 to 65535"),
    ],
)
def test_values_without_a_certain_meaning(values: NDArray[np.generic], piece: str, tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(InputError) as error:
        open_image(tmp_path / "x.tif")
    assert f"cannot read image {tmp_path / 'x.tif'}: " in str(error.value) and piece in str(error.value)
    assert str(error.value).endswith("Convert it to 8 or 16 bits")
    with pytest.raises(UnsupportedPixels):
        as_rgb(Image.fromarray(values))


def test_floats_may_exceed_the_range_by_rounding() -> None:
    assert white_of(-1e-4, 1.001, floats=True) == 1
    assert white_of(0.0, 255.4, floats=True) == 255
    assert white_of(0, 255, floats=False) == 255 and white_of(0, 256, floats=False) == 4095
    with pytest.raises(UnsupportedPixels):
        white_of(0.0, 1.01, floats=True)


def test_16_bit_colours_of_12_bits_are_refused_and_black_is_not(tmp_path: Path) -> None:
    def save(name: str, largest: int) -> Path:
        """A PNG of 4 x 1 pixels with 16 bits per colour, written by hand: Pillow cannot."""
        import struct
        import zlib

        row = b"\0" + np.array([[0, 0, 0], [largest] * 3, [0, largest, 0], [0, 0, 0]], dtype=">u2").tobytes()
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(row)),
            (b"IEND", b""),
        ]
        parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
        return tmp_path / name

    with pytest.raises(InputError, match=r"16-bit colours with values up to 4095 only\. Convert it"):
        open_image(save("12.png", 4095))
    assert open_image(save("16.png", 65535)).getpixel((1, 0)) == (255, 255, 255)
    assert open_image(save("black.png", 0)).getextrema() == ((0, 0),) * 3


# ---- transparency

HIDDEN = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)  # colours below alpha 0
ALPHA = np.zeros((6, 8), dtype=np.uint8)
ALPHA[2:4, 2:5] = 255
ALPHA[5] = 102


def transparent(mode: str, tmp_path: Path, hidden: NDArray[np.uint8] = HIDDEN) -> Path:
    """A picture with hidden colours and a visible block of (10, 10, 10)."""
    colours = np.where(ALPHA[..., None] > 0, 10, hidden).astype(np.uint8)
    image = Image.fromarray(np.dstack([colours, ALPHA]), "RGBA")
    path = tmp_path / f"{mode}.png"
    if mode == "LA":
        Image.merge("LA", [image.convert("RGB").convert("L"), image.getchannel("A")]).save(path)
    elif mode == "P":  # each palette entry has its own alpha
        flat = Image.fromarray(np.where(ALPHA > 0, np.where(ALPHA == 255, 1, 2), 0).astype(np.uint8), "P")
        flat.putpalette([200, 30, 90, 10, 10, 10, 10, 10, 10])
        flat.save(path, transparency=bytes([0, 255, 102]))
    else:
        image.save(path)
    return path


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("background", "colour"), [("white", (255, 255, 255)), ("#204080", (32, 64, 128))])
def test_only_what_is_visible_counts(mode: str, background: str, colour: tuple[int, int, int], tmp_path: Path) -> None:
    seen = np.asarray(open_image(transparent(mode, tmp_path), Decoding(background)))
    weight = ALPHA[..., None] / 255
    expected = weight * 10 + (1 - weight) * np.array(colour)
    assert abs(seen - expected).max() <= 0.5 + 1e-6


def test_hidden_colours_change_nothing(tmp_path: Path) -> None:
    seen = {open_image(transparent("RGBA", tmp_path, hidden)).tobytes() for hidden in (HIDDEN, HIDDEN // 2, 0 * HIDDEN)}
    assert len(seen) == 1


@pytest.mark.parametrize(("mode", "key"), [("L", 70), ("RGB", (70, 70, 70)), ("I;16", 70 * 257)])
def test_a_transparent_colour(mode: str, key: int | tuple[int, ...], tmp_path: Path) -> None:
    grey = np.array([[70, 71, 0, 255]], dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "x.png", transparency=key)
    if "transparency" not in Image.open(tmp_path / "x.png").info:
        pytest.skip("this Pillow does not write it")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "x.png"))[0, :, 0], [255, 71, 0, 255])


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA"])
def test_rare_modes_with_alpha(mode: str) -> None:
    seen = as_rgb(Image.new("RGBA", (3, 2), (40, 40, 40, 0)).convert("LA" if mode == "La" else "RGBA").convert(mode))
    assert (seen.mode, seen.getpixel((0, 0))) == ("RGB", (255, 255, 255))


# ---- orientation


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_once(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7) * 7).convert("RGB").save(path, exif=exif)
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    image, found = open_turned(path)
    assert (image.tobytes(), image.size, found) == (expected.tobytes(), expected.size, orientation)
    assert as_rgb(image).tobytes() == image.tobytes()  # not turned again


def test_an_unknown_orientation_turns_nothing() -> None:
    image = Image.new("RGB", (4, 2))
    assert upright(image, 0) is image and upright(image, 9) is image
