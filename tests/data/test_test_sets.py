"""Unreadable images of a test: named at once, or left out; the few-shot draw does not depend on them."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.decoding import many_unreadable
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.badinput


@pytest.fixture
def photos(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder data set that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "data"))


def opened(root: Path, **options: str) -> FewShotOOD:
    data = FewShotOOD(str(root), "folder:photos", ["folder:other"], num_workers=0, **options)
    data.image_size = 32
    return data


def cut(path: Path) -> None:
    """Keep half of a file: its header can be read, its pixels cannot."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_all_unreadable_headers_are_named_before_the_test(photos: Path) -> None:
    for name in ("photos/test/star/1.png", "other/3.png", "other/5.png", "other/6.png"):
        (photos / name).write_bytes(b"not an image")
    with pytest.raises(InputError) as error:
        opened(photos).setup("test")
    text = str(error.value)
    assert text.startswith(f"cannot read 4 images: {photos / 'photos/test/star/1.png'}: unknown image format; ")
    assert str(photos / "other/5.png") in text and str(photos / "other/6.png") not in text and "and 1 more" in text
    assert text.endswith("Repair or remove them, or leave them out with --data.unreadable skip")
    assert "\n" not in text


def test_images_that_prove_broken_later_are_named_with_the_rest_of_their_set(photos: Path) -> None:
    for i in (2, 4):
        cut(photos / f"other/{i}.png")
    data = opened(photos)
    data.setup("test")
    images = data.test_images("other")
    assert images[1]["image"].shape == (3, 32, 32)
    with pytest.raises(InputError, match="cannot read 2 images") as error:
        images[2]
    assert all(str(photos / f"other/{i}.png") in str(error.value) for i in (2, 4))


def test_unreadable_images_are_left_out(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(photos / "other/2.png")
    (photos / "other/4.png").write_bytes(b"")
    cut(photos / "photos/test/star/1.png")
    data = opened(photos, unreadable="skip")
    data.setup("test")
    assert data.left_out == {"id": 1, "other": 2}
    images, positions = data.test_sets["other"]
    assert [images.keys[i] for i in positions] == ["0.png", "1.png", "3.png", "5.png", "6.png"]
    assert sum(len(data.test_images(name)[i]["image"]) for name in ("id", "other") for i in range(5)) == 30
    assert capsys.readouterr().err.count("left out: cannot read image") == 3


def test_a_set_without_a_readable_image(photos: Path) -> None:
    for path in (photos / "other").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(InputError, match="none of the 7 images of the set 'other' can be read: cannot read image"):
        opened(photos, unreadable="skip").setup("test")


@pytest.mark.parametrize("unreadable", ["error", "skip"])
def test_few_shot_images_are_drawn_as_before_and_must_be_readable(unreadable: str, photos: Path) -> None:
    data = opened(photos, unreadable=unreadable, shots="all")
    data.setup("fit")
    drawn = list(data.shot_positions)
    for name in ("circle/0.png", "star/2.png"):
        cut(photos / "photos/train" / name)
    again = opened(photos, unreadable=unreadable, shots="all")
    again.setup("fit")
    assert again.shot_positions == drawn
    with pytest.raises(InputError, match="cannot read 2 images") as error:
        again.shot_images(torch.arange(len(drawn)))
    assert "--data.unreadable" not in str(error.value)


def test_validation_leaves_unreadable_images_out(photos: Path) -> None:
    data = opened(photos, unreadable="skip")
    data.setup("validate")
    held_out = data.held_out()
    cut(photos / "photos/train" / data.id_set.train.keys[held_out[3]])
    assert len(data.val_dataloader().dataset) == len(held_out) - 1
    strict = opened(photos)
    strict.setup("validate")
    with pytest.raises(InputError, match=r"cannot read image .*, or leave them out with --data\.unreadable skip"):
        list(strict.val_dataloader())


def test_sets_of_one_option_have_one_background(photos: Path) -> None:
    for name in ("photos/train/star/0.png", "photos/test/star/0.png", "other/0.png"):
        Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(photos / name)
    data = opened(photos, background="#102030", shots="all", ood_resolution="native")
    data.setup("fit")
    data.setup("test")
    expected = torch.tensor([16, 32, 48], dtype=torch.uint8)
    at = data.id_set.train.keys.index("star/0.png")
    shot = data.shot_images(torch.tensor([data.shot_positions.index(at)]))[0]
    tested = [data.test_images("other")[0], data.test_images("id")[data.test_sets["id"][0].keys.index("star/0.png")]]
    for pixels in (shot, *(item["image"] for item in tested)):
        assert torch.equal(pixels[:, 5, 7], expected)


def test_one_unreadable_image_keeps_its_own_message() -> None:
    message = "cannot read image a.png: broken PNG file. Repair it, or remove it from the folder"
    assert str(many_unreadable([message])) == message
    assert str(many_unreadable([message], "--x skip")) == f"{message}, or leave them out with --x skip"
