"""Image files changed at random: an RGB image of the right size, or one line; never another error."""

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import damaged, fewer
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from image_bytes import png, tiff
from PIL import Image

from clipos_lightning import InputError
from clipos_lightning.cli.inference import ImageFiles
from clipos_lightning.data.decoding import Decoding, image_size, open_image
from clipos_lightning.data.pixels import as_rgb
from clipos_lightning.data.preprocessing import Preprocessing
from clipos_lightning.data.transforms import to_model_size

pytestmark = pytest.mark.badinput
DECODING = Decoding("#102030", max_pixels=100_000)
PICTURE = Image.effect_noise((24, 18), 80)
ALPHA = Image.linear_gradient("L").resize((24, 18))


def encoded(form: str, mode: str = "RGB", **options: Any) -> bytes:
    """A picture as a file."""
    image = PICTURE.convert(mode)
    if "A" in mode:
        image.putalpha(ALPHA)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def frames(form: str) -> bytes:
    """Three frames in one file."""
    others = [PICTURE.rotate(90 * i).convert("RGB") for i in (1, 2)]
    return encoded(form, save_all=True, append_images=others)


FILES = {
    **{f"{form} {mode}": encoded(form, mode) for form in ("PNG", "TIFF") for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{f"JPEG {mode}": encoded("JPEG", mode) for mode in ("L", "RGB", "CMYK")},
    **{form: encoded(form) for form in ("BMP", "PPM", "WEBP", "GIF")},
    **{f"{form} frames": frames(form) for form in ("GIF", "WEBP", "TIFF", "PNG")},
    "progressive JPEG": encoded(
        "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    ),
    "compressed TIFF": encoded("TIFF", compression="tiff_lzw"),
    "16-bit PNG": png(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257, 16, 0, tRNS=b"\1\1"),
    "16-bit TIFF": tiff(np.arange(256, dtype=np.int16).reshape(16, 16), ">"),
    "float TIFF": tiff(np.arange(256, dtype=np.float32).reshape(16, 16) / 255),
}


def check_file(path: Path) -> None:
    """Read a file in every way that commands do."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no message of Pillow
        warnings.filterwarnings("ignore", module="PIL")
        name, pixels, error = ImageFiles(Preprocessing(32), DECODING)[str(path)]
        assert name == str(path) and (pixels is None) == bool(error)
        if pixels is not None:
            assert pixels.shape == (3, 32, 32) and error == ""
            image = open_image(path, DECODING)
            assert image.mode == "RGB" and image.width * image.height <= DECODING.max_pixels
            assert sorted(image_size(path, DECODING)) == sorted(image.size)
        else:
            assert error.startswith(f"cannot read image {path}: ") and error.isprintable()
            with pytest.raises(InputError):
                open_image(path, DECODING)


@pytest.mark.parametrize("kind", FILES)
def test_the_files_are_right_before_they_are_changed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(FILES[kind])
    check_file(tmp_path / "x.png")
    assert open_image(tmp_path / "x.png", DECODING).size in ((24, 18), (18, 24), (16, 16))


@given(content=st.sampled_from(sorted(FILES)).flatmap(lambda kind: damaged(FILES[kind])))
def test_damaged_images(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    check_file(tmp_path / "x.png")


TYPES = st.sampled_from(
    [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.float16, np.float32, np.float64]
)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9)) | st.tuples(*3 * [st.integers(1, 5)])


@given(values=TYPES.flatmap(lambda kind: arrays.arrays(kind, SHAPES)), order=st.sampled_from("<>"), tags=st.data())
def test_numbers_of_any_type_and_range(values: Any, order: str, tags: st.DataObject, tmp_path: Path) -> None:
    photometric = tags.draw(st.sampled_from([0, 1, 2, 5, 6, 8, 32803]))
    (tmp_path / "x.tif").write_bytes(
        tiff(values, order, photometric, extra=tags.draw(st.sampled_from([None, 0, 1, 2])))
    )
    check_file(tmp_path / "x.tif")
    if (
        values.ndim == 2
        and photometric == 1
        and ImageFiles(Preprocessing(32), DECODING)[str(tmp_path / "x.tif")][1] is not None
    ):
        seen = np.asarray(open_image(tmp_path / "x.tif", DECODING))
        plain = values.astype(np.float64)
        shown = [np.rint(np.clip(plain / white, 0, 1) * 255) for white in (1, 255, 4095, 32767, 65535)]
        assert any((seen == one[..., None]).all() for one in shown)
        assert plain.min() >= -128.5 and plain.max() <= 65664  # half a grey level outside


MODES = (
    "1",
    "L",
    "P",
    "LA",
    "PA",
    "La",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "F",
)


@given(mode=st.sampled_from(MODES), width=st.integers(1, 40), height=st.integers(1, 2000), value=st.integers(0, 255))
def test_images_of_any_mode_and_size(mode: str, width: int, height: int, value: int) -> None:
    assume(mode != "F" or not 1 < value < 16)  # floats of no known range are refused
    image = as_rgb(Image.new(mode, (width, height), value))
    assert (image.mode, image.size) == ("RGB", (width, height))
    assert to_model_size(image, Preprocessing(16)).shape == (3, 16, 16)


@fewer(2)
@given(sizes=st.tuples(st.integers(0, 2**31), st.integers(0, 2**31)), bits=st.sampled_from([1, 8, 16]))
def test_headers_with_any_size(sizes: tuple[int, int], bits: int, tmp_path: Path) -> None:
    content = bytearray(png(np.zeros((2, 2), np.uint8), bits, 0))
    header = sizes[0].to_bytes(4, "big") + sizes[1].to_bytes(4, "big") + content[24:29]
    content[16:33] = header + zlib.crc32(b"IHDR" + header).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(bytes(content))
    check_file(tmp_path / "x.png")
