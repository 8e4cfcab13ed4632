"""Layouts of image folders: usual split folders are found, and what may be either splits or classes is refused."""

import shutil
from pathlib import Path

import pytest
from running import save_noise

from clipos_lightning import FewShotOOD
from clipos_lightning.data.layouts import check_classes
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.badinput


def make(root: Path, *folders: str) -> None:
    """An image in each folder below ``mine``."""
    for folder in folders:
        save_noise(root / "mine" / folder / "0.png", 0)


def open_mine(root: Path, class_list: str | None = None) -> FewShotOOD:
    return FewShotOOD(str(root), "folder:mine", [], class_list=class_list)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("Training", "Testing"), ("TRAIN", "test"), ("train", "Test_Set"), ("train2017", "val2017")),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set/training_set", "test_set/test_set"),
        *(("train_data", "test-data"), ("Train Images", "Test Images"), ("imgs_train", "imgs_test")),
        *(("training-set", "tst"), ("dataset_train", "Evaluation")),
    ],
)
def test_the_usual_names_of_split_folders(train: str, test: str, tiny_folder: Path, tmp_path: Path) -> None:
    for split, place in (("train", train), ("test", test)):
        shutil.copytree(tiny_folder / "photos" / split, tmp_path / "mine" / place)
    make(tmp_path, "valid/star")
    data = open_mine(tmp_path)
    assert data.class_names == ["circle", "heart", "star"] and len(data.id_set.train) == 12
    assert (data.id_set.test is None) == (test in ("val2017", "Evaluation"))  # images for validation are left out
    assert data.id_set.test is None or len(data.id_set.test) == 15


@pytest.mark.parametrize("name", ["train", "Test", "dev", "pred"])
def test_a_class_called_like_a_split(name: str, tmp_path: Path) -> None:
    make(tmp_path, name, "bus", "car")
    assert open_mine(tmp_path).id_set.class_keys == sorted([name, "bus", "car"])


@pytest.mark.parametrize("name", ["trains", "contest", "latest", "evaluator", "train_test", "test tube", "pretrained"])
def test_names_that_contain_a_split(name: str, tmp_path: Path) -> None:
    make(tmp_path, f"{name}/2019", f"{name}/2020", "car")
    assert open_mine(tmp_path).id_set.class_keys == sorted([name, "car"])


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["train/cat", "Training/cat"], "has Training and train: name the training folder train"),
        (["Testing/cat", "val/cat"], "has Testing, val, but no train/"),
        (["learn/cat", "learn/dog", "test/cat", "test/dog"], "has learn, test, but no train/"),
        (
            ["fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"],
            "'fold1' and 'fold2' have no image files, but the folders cat",
        ),
        (["Art/cat", "Art/dog", "Real/cat", "Real/dog", "more"], "'Art' and 'Real' have no image files"),
        (
            ["train/2019/cat", "train/2019/dog", "train/2020/cat", "train/2020/dog"],
            "'2019' and '2020' have no image files",
        ),
        (
            ["cat/train", "cat/test", "dog/train", "dog/test"],
            "'cat' and 'dog' have no image files, but the folders test, train",
        ),
        (["images/cat", "images/dog"], "'images' has no image files, but the folders cat, dog"),
        (["dataset/train/cat", "dataset/test/cat"], "'dataset' has no image files, but the folders test, train"),
        (
            ["train/images/cat", "train/images/dog", "test/images/cat"],
            "'images' has no image files, but the folders cat, dog",
        ),
    ],
)
def test_splits_or_classes(folders: list[str], says: str, tmp_path: Path) -> None:
    make(tmp_path, *folders)
    with pytest.raises(InputError, match=rf"^--data\.id: .*{says}"):
        open_mine(tmp_path)


@pytest.mark.parametrize(
    "folders",
    [
        ["cat/images", "dog/images"],
        ["cat/2019", "cat/2020", "dog/2020", "dog/2021"],
        ["animals/cat", "animals/dog", "vehicles/car", "vehicles/bus"],
        ["cat", "cat/indoors", "cat/outdoors", "dog", "dog/indoors", "dog/outdoors"],
        ["cat/good", "dog"],
    ],
)
def test_classes_with_folders_inside(folders: list[str], tmp_path: Path) -> None:
    make(tmp_path, *folders)
    assert open_mine(tmp_path).id_set.class_keys == sorted({folder.split("/")[0] for folder in folders})


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (["cat/in", "cat/out", "dog/in", "dog/out"], ["cat", "dog"]),
        (["test/in", "test/out", "train/in", "train/out", "bus"], ["bus", "test", "train"]),
        (["train/cat", "train/dog", "train/cow", "test/dog", "test/cat"], ["cat", "dog"]),
    ],
)
def test_a_class_list_says_which_folders_are_classes(folders: list[str], classes: list[str], tmp_path: Path) -> None:
    make(tmp_path, *folders)
    (tmp_path / "list.txt").write_text("\n".join(classes))
    assert open_mine(tmp_path, str(tmp_path / "list.txt")).id_set.class_keys == classes


def test_many_classes_with_folders_are_quick() -> None:
    check_classes(Path("photos"), [f"{i}/{part}/1.png" for i in range(500) for part in ("images", f"more{i}")])
