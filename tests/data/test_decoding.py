"""Image files: formats that are read, the limit of pixels, messages of Pillow, thin images."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import save_noise

from clipos_lightning.data import decoding
from clipos_lightning.data.decoding import Decoding, formats, image_size, open_image, prepare_pillow, short_reason
from clipos_lightning.data.preprocessing import Preprocessing
from clipos_lightning.data.transforms import is_long, mask_to_model_size, to_model_size, view, view_rng
from clipos_lightning.errors import InputError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


# ---- formats


def test_no_format_starts_another_program() -> None:
    assert {"JPEG", "PNG", "TIFF"} <= set(formats())
    assert not {"EPS", "FPX", "MIC", "WMF", "PSD", "PDF"} & set(formats())


def test_an_eps_file_named_jpg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "EpsImageFile", None)  # opening one would fail
    (tmp_path / "a.jpg").write_bytes(EPS)
    with pytest.raises(
        InputError, match=r"it is in EPS format, which is not read\. Convert it to PNG or JPEG"
    ) as error:
        open_image(tmp_path / "a.jpg")
    assert short_reason(str(tmp_path / "a.jpg"), str(error.value)) == "it is in EPS format, which is not read"


def test_a_wrong_suffix_and_a_broken_header(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3), "red").save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert open_image(tmp_path / "a.jpg").getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "b.tif").write_bytes(b"II*\0" + bytes(40))
    with pytest.raises(InputError, match="broken TIFF file, or of a kind that Pillow cannot read"):
        open_image(tmp_path / "b.tif")


@pytest.mark.parametrize("content", [b"", b"B", b"not an image", b"GIF"])
def test_files_of_no_format(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png: unknown image format\. Repair it, or remove it from the folder$"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "device"])
def test_what_is_no_regular_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    reasons = {"fifo": "not a regular file", "folder": "a folder", "loop": "symbolic links", "device": "not a regular"}
    {
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()
    with pytest.raises(InputError, match=reasons[kind]) as error:
        open_image(path)
    assert str(error.value).count(str(path)) == 1


# ---- the limit of pixels


def test_the_limit_of_pixels(tmp_path: Path) -> None:
    save_noise(tmp_path / "a.png", 0, (40, 36))
    assert open_image(tmp_path / "a.png", Decoding(max_pixels=1440)).size == (40, 36)
    for read in (open_image, image_size):
        with pytest.raises(InputError, match=r"40 x 36 pixels, more than the limit of 1,439\. Scale it down, or inc"):
            read(tmp_path / "a.png", Decoding(max_pixels=1439))


def test_a_higher_limit_raises_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    save_noise(tmp_path / "a.png", 0, (40, 36))
    with pytest.raises(InputError, match="exceeds limit"):
        open_image(tmp_path / "a.png", Decoding(max_pixels=1000))
    assert Image.MAX_IMAGE_PIXELS == 500
    assert open_image(tmp_path / "a.png", Decoding(max_pixels=1440)).size == (40, 36)


def test_pillows_warnings_are_silenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    save_noise(tmp_path / "a.png", 0, (40, 36))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(tmp_path / "a.png").close()
        assert len(caught) == 1
        prepare_pillow(10**6)
        open_image(tmp_path / "a.png", Decoding())
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("options", "piece"),
    [
        (Decoding("nocolour"), "--data.background is 'nocolour': it must be a colour name or #rrggbb"),
        (Decoding("#ffffff80"), "--data.background is '#ffffff80'"),
        (Decoding(max_pixels=0), "--data.max_pixels is 0: it must be at least 1"),
    ],
)
def test_options_that_cannot_be(options: Decoding, piece: str) -> None:
    with pytest.raises(InputError, match=piece.replace("(", r"\(")):
        options.check("--data.")
    assert Decoding("#123").check() == Decoding("#123")


# ---- thin images


def wave(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    channels = [127 + 120 * np.sin(x / 7 + k) * np.cos(y / 5 + k) for k in range(3)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize("size", [(400, 20), (20, 400), (333, 31), (7, 100), (2001, 20), (20, 1999)])
def test_of_long_images_only_the_crop_is_computed(size: tuple[int, int]) -> None:
    image = wave(*size)
    assert is_long(*size)
    scaled = tuple(max(32, int(32 * side / min(size))) for side in size)
    left, top = (round((side - 32) / 2) for side in scaled)
    whole = image.resize(scaled, Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))
    found = to_model_size(image, Preprocessing(32)).permute(1, 2, 0).numpy().astype(int)
    assert abs(found - np.asarray(whole)).max() <= 2
    mask = (np.asarray(image)[..., 0] > 127).astype(np.float32)
    whole_mask = Image.fromarray(mask).resize(scaled, Image.Resampling.BILINEAR).crop((left, top, left + 32, top + 32))
    assert abs(mask_to_model_size(mask, Preprocessing(32)).numpy() - np.asarray(whole_mask)).max() < 1e-3


def test_extremely_thin_images_take_little_memory() -> None:
    """Scaled as a whole, they would have 4e10 pixels."""
    for size in ((200_000, 1), (1, 200_000)):
        image = Image.new("RGB", size, (10, 200, 30))
        assert (to_model_size(image, Preprocessing(224)).flatten(1).float().mean(1).tolist()) == [10, 200, 30]
        assert view(image, Preprocessing(224), view_rng(1, "a", "b", 1)).shape == (3, 224, 224)
        assert mask_to_model_size(np.ones(size[::-1], dtype=np.float32), Preprocessing(224)).min() > 0.999
