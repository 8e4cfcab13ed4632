"""Paths with a home folder in them."""

from pathlib import Path

import pytest

from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.utils.files import expand_home

pytestmark = pytest.mark.badinput


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        ("~", "/home/me"),
        ("~/photos", "/home/me/photos"),
        ("folder:~/photos", "folder:/home/me/photos"),
        ("mine=folder:~/a=folder:b", "mine=folder:/home/me/a=folder:b"),
        ("~/a folder:b", "/home/me/a folder:b"),
        ("photos/~", "photos/~"),
        ("folder:photos/~", "folder:photos/~"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ("cifar10", "cifar10"),
    ],
)
def test_home_folders(given: str, expanded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home(given) == expanded


def test_every_path_of_the_data_may_start_with_the_home_folder(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").symlink_to(tiny_folder)
    (tmp_path / "names.yaml").write_text("circle: ring\n")
    (tmp_path / "classes.txt").write_text("circle\nstar\n")
    data = FewShotOOD(
        root="~/nothing",
        id="folder:~/pictures/photos",
        ood_sets=["far=folder:~/pictures/other"],
        class_names="~/names.yaml",
        class_list="~/classes.txt",
        cache=False,
    )
    data.image_size = 32
    data.setup("test")
    assert data.class_names == ["ring", "star"]
    assert {name: len(positions) for name, (_, positions) in data.test_sets.items()} == {"id": 10, "far": 7}
    assert data.hparams["id"] == f"folder:{tmp_path}/pictures/photos"  # found from another account too
