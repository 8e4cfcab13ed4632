"""The hint for class names that mean nothing to CLIP, and folders that are called by WordNet ids."""

from pathlib import Path

import pytest
from running import CPU, PHOTOS, clipos, make_photos

from clipos_lightning.data.classnames import folder_names, imagenet_classes
from clipos_lightning.data.id_sets import id_folder
from clipos_lightning.training.name_notes import describe_codes, is_code

pytestmark = pytest.mark.badinput

CODES = ("0", "0001", "12", "1.10", "2024-01-01", "n01440764", "N01440764", "class_3", "class 3", "Class03", "label-7")
CODES += ("cls_0", "category 12", "id7", "A12", "b47", "AB-12", "A", "x", "#3", "3a")
WORDS = (
    "cat",
    "red fox",
    "Boeing 747",
    "F-16 fighter",
    "ox",
    "猫",
    "3d printer",
    "model 3 car",
    "route 66",
    "vitamin b12",
)


@pytest.mark.parametrize("name", CODES)
def test_names_without_meaning(name: str) -> None:
    assert is_code(name)


def test_names_with_meaning() -> None:
    assert [name for name in (*WORDS, *imagenet_classes().values()) if is_code(name)] == []


@pytest.mark.parametrize(
    ("names", "keys", "pieces"),
    [
        (["cat", "dog"], ["cat", "dog"], []),
        (["cat", "dog"], ["0", "1"], []),  # worded with --data.class_names
        (["1", "cat"], ["1", "cat"], ["hint: 1 of 2 class names are numbers or codes", ": 1;", "--data.class_names"]),
        (["1", "2", "3", "4"], ["1", "2", "3", "4"], ["4 of 4", ": 1, 2, 3, …;"]),
        (["n01440764", "cat"], ["n01440764", "cat"], ["1 of 2", "(n01440764: tench in ImageNet-1k)"]),
        (["n99999999"], ["n99999999"], ["1 of 1", ": n99999999; give words"]),
        (["tench", "goldfish"], ["n01440764", "n01443537"], ["n01440764: tench, n01443537: goldfish", "class_names"]),
    ],
)
def test_the_line(names: list[str], keys: list[str], pieces: list[str]) -> None:
    lines = describe_codes(names, keys)
    assert len(lines) == bool(pieces)
    for piece in pieces:
        assert piece in lines[0]


def test_names_of_folders() -> None:
    assert folder_names(["red_fox", "wolf"]) == ["red fox", "wolf"]
    known = imagenet_classes()
    assert folder_names(list(known)) == list(known.values())
    assert folder_names([*known, "wolf"]) == [*known, "wolf"]  # not all of them: nothing is guessed
    assert folder_names([]) == []


def rename_classes(root: Path, names: tuple[str, ...]) -> None:
    for split in ("train", "test"):
        for shape, name in zip(PHOTOS, names, strict=True):
            (root / "photos" / split / shape).rename(root / "photos" / split / name)


def test_fit_prints_the_hint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rename_classes(make_photos(tmp_path, train=1, test=1, other=1), ("0001", "class_2", "star"))
    words = ("fit", "--config", "demo.yaml", "--data.root", ".", "--data.id", "folder:photos", "--data.ood_sets", "[]")
    run = clipos(*words, *CPU, "--trainer.max_steps", 1)
    assert run.code == 0, run.err
    (line,) = (line for line in run.lines if line.startswith("hint:"))
    assert "2 of 3" in line and "0001, class 2" in line and "--data.class_names" in line


def test_folders_called_by_wordnet_ids_get_their_names(tmp_path: Path) -> None:
    rename_classes(make_photos(tmp_path, train=1, test=1, other=1), ("n01440764", "n01443537", "n01484850"))
    found = id_folder(tmp_path / "photos")
    assert found.class_names == ["tench", "goldfish", "great white shark"]
    assert found.class_keys == ["n01440764", "n01443537", "n01484850"]
