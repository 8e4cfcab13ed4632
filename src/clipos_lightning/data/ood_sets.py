"""Readers of the named out-of-distribution sets; ``data/benchmarks.py`` lists them by name."""

from pathlib import Path

import torchvision

from ..errors import InputError
from .arrays import UNREADABLE, read_svhn
from .cache import cached_arrays
from .classnames import packaged_lines
from .id_sets import Request, broken_set, missing_set, read_cifar_split
from .image_sets import ArraySet, FolderSet, ImageSet, SceneSet, folder_images
from .sources import SOURCES

SCENE_OOD_COUNT = 600


def ood_scenes(kind: str, style: str, request: Request) -> ImageSet:
    """One of the OOD kinds of ``scenes``, from the report stream: 600 images, the same in every run."""
    return SceneSet(kind, "report", 0, SCENE_OOD_COUNT, style)


def ood_folder(name: str, request: Request) -> FolderSet:
    """All images of a set that is a single folder.

    Raises:
        MissingSet: the folder is not below the root.
        InputError: it contains no image.
    """
    path = request.root / SOURCES[name].image_paths[0]
    if not path.is_dir():
        raise missing_set(name, request.root)
    return folder_images(name, path)


def ood_tiny_imagenet(request: Request) -> FolderSet:
    """Tiny-ImageNet's 10,000 validation images, from ``val/images`` or from class folders in ``val``."""
    if not (request.root / "tiny-imagenet-200/val").is_dir():
        raise missing_set("tiny_imagenet", request.root)
    return folder_images("tiny_imagenet", request.root / "tiny-imagenet-200/val")


def ood_textures(request: Request) -> FolderSet:
    """Describable Textures (DTD), all three splits as torchvision reads them: 5,640 images."""
    files: list[Path] = []
    for split in ("train", "val", "test"):
        try:
            part = torchvision.datasets.DTD(str(request.root), split=split, download=False)
        except (RuntimeError, OSError) as error:
            raise missing_set("textures", request.root) from error
        files += [Path(file) for file in part._image_files]
    folder = request.root / SOURCES["textures"].image_paths[0]
    return FolderSet("textures", folder, [f"{file.parent.name}/{file.name}" for file in files])


def ood_places365(request: Request) -> FolderSet:
    """The 10,000 validation images of Places365 in the packaged list.

    Raises:
        MissingSet: the set is not below the root.
        InputError: an image of the list is missing.
    """
    path = request.root / SOURCES["places365"].image_paths[0]
    if not path.is_dir():
        raise missing_set("places365", request.root)
    names = places365_names()
    absent = sorted(set(names) - {entry.name for entry in path.iterdir()})
    if absent:
        raise InputError(
            f"{path} lacks {len(absent):,} of the {len(names):,} images of the list, for example {absent[0]}: remove "
            f"it and run clipos data download places365 --root {request.root}"
        )
    return FolderSet("places365", path, names)


def places365_names() -> list[str]:
    """File names of the 10,000 images; the packaged list says how they were drawn."""
    numbers = " ".join(packaged_lines("places365_10000.txt")).split()
    return [f"Places365_val_{int(number):08d}.jpg" for number in numbers]


def ood_svhn(request: Request) -> ArraySet:
    """SVHN's test split.

    Raises:
        MissingSet: the file is not below the root.
        InputError: the file cannot be read.
    """
    path = request.root / SOURCES["svhn"].image_paths[0]
    if not path.is_file():
        raise missing_set("svhn", request.root)
    try:
        images, _ = cached_arrays(request.cache_root, [path], lambda: read_svhn(path))
    except UNREADABLE as error:
        raise broken_set("svhn", path, error) from error
    return ArraySet("svhn", images, None)


def ood_cifar(name: str, request: Request) -> ArraySet:
    """The test split of CIFAR-10 or CIFAR-100, without labels."""
    return ArraySet(name, read_cifar_split(name, request, "test")[0], None)
