"""Readers of the out-of-distribution sets that are known by name."""

import importlib.util
from pathlib import Path
from typing import Any

import torchvision

from ..errors import InputError
from .arrays import UNREADABLE, read_svhn
from .cache import cached_arrays
from .classnames import packaged_lines
from .id_sets import Request, broken, missing, read_cifar_split
from .image_sets import ArraySet, FolderSet, ImageSet, MissingSet, SceneSet, TorchvisionSet, folder_images
from .sources import SOURCES

SCENE_OOD_COUNT = 600


def scene_kind(kind: str, asked: Request) -> ImageSet:
    """An OOD set of the embedded pictures, from the report stream."""
    return SceneSet(kind, "report", 0, SCENE_OOD_COUNT)


def folder(name: str, asked: Request) -> FolderSet:
    """Every image of a set that unpacks into one folder."""
    path = asked.root / SOURCES[name].holds[0]
    if not path.is_dir():
        raise missing(name, asked.root)
    return folder_images(name, path)


def tiny_imagenet(asked: Request) -> FolderSet:
    """Tiny-ImageNet's 10,000 validation images, whether they lie in ``val/images`` or in folders by class."""
    if not (asked.root / "tiny-imagenet-200/val").is_dir():
        raise missing("tiny_imagenet", asked.root)
    return folder_images("tiny_imagenet", asked.root / "tiny-imagenet-200/val")


def textures(asked: Request) -> ImageSet:
    """Describable Textures (DTD), all three splits by torchvision's reader: 5,640 images."""
    parts: list[Any] = []
    for split in ("train", "val", "test"):
        try:
            parts.append(torchvision.datasets.DTD(str(asked.root), split=split, download=False))
        except (RuntimeError, OSError) as error:
            raise missing("textures", asked.root) from error
    files = [Path(p) for part in parts for p in part._image_files]
    return TorchvisionSet("textures", parts, [f"{p.parent.name}/{p.name}" for p in files])


def places365(asked: Request) -> FolderSet:
    """The 10,000 validation images of the packaged list.

    Raises:
        MissingSet: not there.
        InputError: one of the list's images is not there.
    """
    path = asked.root / SOURCES["places365"].holds[0]
    if not path.is_dir():
        raise missing("places365", asked.root)
    names = places365_names()
    lacking = sorted(set(names) - {entry.name for entry in path.iterdir()})
    if lacking:
        raise InputError(
            f"{path} lacks {len(lacking):,} of the {len(names):,} images of the list, {lacking[0]} for one: remove it "
            f"and run clipos data download places365 --root {asked.root}"
        )
    return FolderSet("places365", path, names)


def places365_names() -> list[str]:
    """File names of the 10,000 images; the packaged file says how they were drawn."""
    numbers = " ".join(packaged_lines("places365_10000.txt")).split()
    return [f"Places365_val_{int(number):08d}.jpg" for number in numbers]


def svhn(asked: Request) -> ArraySet:
    """SVHN's test split.

    Raises:
        MissingSet: not there, or no scipy to read it with.
        InputError: not such a file.
    """
    path = asked.root / SOURCES["svhn"].holds[0]
    if not path.is_file():
        raise missing("svhn", asked.root)
    if importlib.util.find_spec("scipy") is None:
        advice = "reading it takes scipy: pip install 'clipos-lightning[svhn]'"
        raise MissingSet(advice, f"OOD set 'svhn': {advice}, or leave it out of --data.ood_sets")
    try:
        images, _ = cached_arrays(asked.kept, [path], lambda: read_svhn(path))
    except UNREADABLE as error:
        raise broken("svhn", path, error) from error
    return ArraySet("svhn", images, None)


def cifar_test(name: str, asked: Request) -> ArraySet:
    """The test split of CIFAR-10 or CIFAR-100, without its labels."""
    return ArraySet(name, read_cifar_split(name, asked, "test")[0], None)
