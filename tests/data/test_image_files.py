"""Image formats that need an extra or a recent Pillow, and the files that are left out."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import save_noise

from clipos_lightning.cli.data import decode
from clipos_lightning.data import image_files
from clipos_lightning.data.decoding import open_image, short_reason
from clipos_lightning.data.image_files import count_other_suffixes, describe_left_out, image_suffixes, list_images
from clipos_lightning.data.image_sets import FolderSet, folder_images, labelled_folder
from clipos_lightning.errors import InputError

ORIENTATION = 0x0112


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The extra ``heif`` is not installed, and Pillow is older than 11.3."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(image_files.features, "modules", {})
    for cached in (image_files.register_heif, image_files.image_suffixes):
        cached.cache_clear()
    yield
    for cached in (image_files.register_heif, image_files.image_suffixes):
        cached.cache_clear()


def save_picture(path: Path) -> None:
    """A picture whose upper half is red, stored on its side with the orientation of a phone."""
    pixels = np.full((32, 48, 3), 30, dtype=np.uint8)
    pixels[:16, :, 0] = 220
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif.tobytes())


@pytest.mark.parametrize("suffix", [".jfif", ".JPG", ".avif", ".heic", ".HEIF", ".hif"])
def test_photos_of_phones_are_read_upright(suffix: str, tmp_path: Path) -> None:
    if suffix.lower() in image_files.HEIF_SUFFIXES:
        pytest.importorskip("pillow_heif")
    if suffix == ".avif" and ".avif" not in image_suffixes():
        pytest.skip("Pillow is older than 11.3")
    assert image_files.register_heif() == (".heic" in image_suffixes())  # so that Pillow writes them, too
    path = tmp_path / f"a{suffix}"
    save_picture(path)
    assert list_images(tmp_path) == [path.name]
    picture = np.asarray(open_image(path)).astype(int)
    assert picture.shape == (32, 48, 3)
    assert abs(picture[2:14, 4:44, 0] - 220).max() < 25 and abs(picture[18:30, 4:44] - 30).max() < 25
    assert sorted(FolderSet("x", tmp_path, [path.name]).size(0)) == [32, 48]
    assert decode(str(path)) == ""


def test_what_cannot_be_decoded_is_left_out_with_advice(no_extra: None, tmp_path: Path) -> None:
    assert not image_suffixes() & {".heic", ".heif", ".hif", ".avif"} and ".jfif" in image_suffixes()
    for name in ("a.HEIC", "b.heic", "c.avif", "d.txt", "e"):
        (tmp_path / name).write_bytes(b"no image")
    found = describe_left_out(count_other_suffixes(tmp_path))
    assert found == (
        "left out 5 files with other suffixes (.avif, .heic, .txt, no suffix); to read .heic: pip install "
        "'clipos-lightning[heif]', .avif: pip install -U pillow"
    )
    with pytest.raises(InputError) as refused:
        folder_images("x", tmp_path)
    assert str(refused.value) == f"set 'x': no image below {tmp_path}; {found}"
    with pytest.raises(InputError, match=r"unknown image format\. To read \.heic: pip install 'clipos-l") as error:
        open_image(tmp_path / "b.heic")
    assert short_reason(str(tmp_path / "b.heic"), str(error.value)) == "unknown image format"
    with pytest.raises(InputError, match=r"No such file or directory\. Repair it"):
        open_image(tmp_path / "z.heic")


def test_only_what_a_walk_leaves_out_is_counted(tmp_path: Path) -> None:
    save_noise(tmp_path / "real/0.png", 0)
    for name in ("real/a.txt", "real/deep/b.TXT", "real/c", "real/.hidden", "real/.git/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "real/loop").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert count_other_suffixes(tmp_path / "real") == {".txt": 2, "": 1}
    assert count_other_suffixes(tmp_path).total() == 6


def test_many_suffixes_are_counted_together(tmp_path: Path) -> None:
    for i in range(130):
        (tmp_path / f"log.{i:03}").touch()
    found = count_other_suffixes(tmp_path)
    assert found.total() == 130 and len(found) == image_files.MAX_SUFFIXES + 1 and found["…"] == 30
    described = describe_left_out(found + Counter({".txt": 2}))
    assert described.startswith("left out 132 files") and ".txt" in described and described.count(",") == 8


@pytest.mark.parametrize("suffix", [".png", ".heic"])
def test_the_reason_is_said_without_the_path(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a: b. c{suffix}"
    path.write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        open_image(path)
    assert str(error.value).count(str(path)) == 1
    assert short_reason(str(path), str(error.value)) == "unknown image format"


# ---- links, and names that cannot be opened


def test_a_link_to_itself_is_an_unreadable_image(tmp_path: Path) -> None:
    save_noise(tmp_path / "a/0.png", 0)
    for name in ("a/loop.png", "a/loop", "loop.txt"):
        (tmp_path / name).symlink_to(tmp_path / name)
    assert list_images(tmp_path) == ["a/0.png", "a/loop.png"]
    assert count_other_suffixes(tmp_path) == {"": 1, ".txt": 1}
    with pytest.raises(InputError, match=r"loop\.png: Too many levels of symbolic links"):
        open_image(tmp_path / "a/loop.png")


@pytest.mark.parametrize(("name", "levels"), [("d", sys.getrecursionlimit() + 50), (200 * "d", 25)])
def test_deep_folders_do_not_end_the_walk(name: str, levels: int, tmp_path: Path) -> None:
    """Deeper than Python's recursion limit; and longer than the longest path that the system opens."""
    home = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for _ in range(levels):
            Path(name).mkdir()
            os.chdir(name)
        save_noise(Path("0.png"), 0)
    finally:
        os.chdir(home)
        os.close(home)
    save_noise(tmp_path / "z.png", 0)
    try:
        first, last = list_images(tmp_path)
        assert last == "z.png"
        if len(name) > 1:
            with pytest.raises(InputError, match="File name too long"):
                open_image(tmp_path / first)
        else:
            assert open_image(tmp_path / first).size == (40, 36)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / name)], check=True)


def test_a_folder_without_permission_is_reported_by_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_noise(tmp_path / "a/0.png", 0)
    save_noise(tmp_path / "b/0.png", 0)
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if str(folder).endswith("a"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list_images(tmp_path) == ["a", "b/0.png"]
    images = labelled_folder("x", tmp_path, ["a", "b"])
    assert images.keys == ["a/.", "b/0.png"]
    with pytest.raises(InputError) as error:
        images.read(0)
    reason = "Permission denied. Repair it, or remove it from the folder"
    assert str(error.value) == f"cannot read image {tmp_path / 'a'}: {reason}"


def test_a_grid_lists_each_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_noise(tmp_path / "a" / "0.png", 0)
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    with image_files.shared_listings(), image_files.shared_listings():
        first = list_images(tmp_path)
        first.append("changed")
        assert list_images(tmp_path) == ["a/0.png"]
    assert len(listed) == len(set(listed)) > 0
    save_noise(tmp_path / "a" / "1.png", 1)
    assert list_images(tmp_path) == ["a/0.png", "a/1.png"]
