"""Readers of the in-distribution sets: training and test images, classes and class names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, message_of
from . import scenes
from .arrays import UNREADABLE, Arrays, read_cifar, read_medmnist
from .boxes import with_boxes
from .cache import cached_arrays
from .classnames import (
    BLOODMNIST,
    EUROSAT,
    folder_names,
    imagenet100_classes,
    imagenet_classes,
)
from .image_sets import ArraySet, FolderSet, ImageSet, MissingSet, SceneSet, class_folders, labelled_folder
from .layouts import check_classes, find_splits
from .sources import SOURCES
from .splits import digest

SCENE_POOL = 1000  # training images per class of `scenes`, or --data.shots if that is more
SCENE_MOST = 10_000  # training images per class of `scenes`: rendering them takes minutes
SCENE_ID_COUNT = 1000  # ID test images of `scenes`


@dataclass
class IdSet:
    """An in-distribution set.

    Attributes:
        name: name of the set in reports.
        class_keys: key of each of the C classes: its folder name, or its index as text.
        class_names: default name of each class in the prompts (C).
        train: the images from which the few-shot images are drawn.
        test: the test images; None if the set has none.
    """

    name: str
    class_keys: list[str]
    class_names: list[str]
    train: ImageSet
    test: ImageSet | None


@dataclass(frozen=True)
class Request:
    """The arguments of a reader.

    Attributes:
        root: the data root.
        seed: seed of the few-shot draw, by which ``scenes`` renders its training images.
        shots: images per class, or ``all``.
        classes: class folders to use; None: all.
        cache: whether decoded images are cached below the root.
    """

    root: Path
    seed: int = 1
    shots: int | str = 1
    classes: Sequence[str] | None = None
    cache: bool = True

    @property
    def cache_root(self) -> Path | None:
        """The root to cache arrays below; None: no cache."""
        return self.root if self.cache else None


def missing_set(name: str, root: Path) -> MissingSet:
    """Build the error for a set that is not below the root."""
    source = SOURCES[name]
    place = source.image_paths[0]
    advice = f"clipos data download {name} --root {root}" if source.fetchable else f"see clipos data info {name}"
    message = f"{source.title} is not below {root} (no {root / place}): {advice}, or set --data.root (or $CLIPOS_DATA)"
    return MissingSet(f"no {place}", message, name if source.fetchable else None)


def broken_set(name: str, path: Path, error: Exception) -> InputError:
    """Build the error for a file of arrays that cannot be read."""
    reason = message_of(error)
    return InputError(
        f"cannot read {SOURCES[name].title} in {path}: {reason}. Remove it and run clipos data download {name} again"
    )


def id_scenes(name: str, style: str, request: Request) -> IdSet:
    """The embedded procedural set: ten shapes; at least 1,000 training images per class and 1,000 test images.

    Raises:
        InputError: more images per class are requested than :data:`SCENE_MOST`.
    """
    if isinstance(request.shots, int) and request.shots > SCENE_MOST:
        raise InputError(
            f"--data.shots is {request.shots}: scenes renders at most {SCENE_MOST:,} training images per class, which "
            "takes minutes; lower it"
        )
    classes = len(scenes.ID_SHAPES)
    pool = max(SCENE_POOL, request.shots if isinstance(request.shots, int) else 0)
    train = SceneSet("id", "train", request.seed, pool * classes, style)
    test = SceneSet("id", "report", 0, SCENE_ID_COUNT, style)
    return IdSet(name, [str(i) for i in range(classes)], list(scenes.ID_SHAPES), train, test)


def id_cifar(name: str, names: Sequence[str], request: Request) -> IdSet:
    """CIFAR-10, or CIFAR-100 with its fine labels, from the pickled batches of its authors."""
    return array_id_set(name, names, read_cifar_split(name, request, "train"), read_cifar_split(name, request, "test"))


def read_cifar_split(name: str, request: Request, split: str) -> Arrays:
    """The images and labels of a CIFAR split: ``test`` is the last of the set's batches, ``train`` are the others.

    The batches are in their usual folder below the root, or below ``cifar10/`` or ``cifar100/``.
    """
    batches = SOURCES[name].image_paths
    folder = next((f for f in (request.root, request.root / name) if (f / batches[0]).parent.is_dir()), None)
    if folder is None:
        raise missing_set(name, request.root)
    paths = [folder / path for path in (batches[:-1] if split == "train" else batches[-1:])]
    try:
        return cached_arrays(request.cache_root, paths, lambda: read_cifar(paths))
    except UNREADABLE as error:
        raise broken_set(name, paths[0].parent, error) from error


def array_id_set(name: str, names: Sequence[str], train: Arrays, test: Arrays) -> IdSet:
    """An ID set from arrays; the keys of its classes are their indices as text."""
    for images, labels in (train, test):
        if len(images) and not 0 <= labels.min() <= labels.max() < len(names):
            raise InputError(f"{SOURCES[name].title}: a label outside 0–{len(names) - 1}; download it again")
    keys = [str(i) for i in range(len(names))]
    return IdSet(name, keys, list(names), ArraySet(name, *train), ArraySet(name, *test))


def id_medmnist(request: Request) -> IdSet:
    """BloodMNIST: the training and test splits of MedMNIST's file."""
    path = request.root / SOURCES["medmnist"].image_paths[0]
    if not path.is_file():
        raise missing_set("medmnist", request.root)

    def split(name: str) -> Arrays:
        return cached_arrays(request.cache_root, [path], lambda: read_medmnist(path, name), name)

    try:
        return array_id_set("medmnist", BLOODMNIST, split("train"), split("test"))
    except UNREADABLE as error:
        raise broken_set("medmnist", path, error) from error


def id_imagenet1k(request: Request) -> IdSet:
    """ImageNet-1k from folders named by WordNet id; the sorted ids are the usual order of the classes."""
    return imagenet("imagenet1k", request.root, request.classes or list(imagenet_classes()))


def id_imagenet100(request: Request) -> IdSet:
    """ImageNet-100: the 100 classes of MCM's list, or those of ``--data.class_list``."""
    return imagenet("imagenet100", request.root, request.classes or imagenet100_classes())


def imagenet(name: str, root: Path, classes: Sequence[str]) -> IdSet:
    """Some classes of ImageNet; ``train`` may be missing (then nothing can be drawn), and so may ``val``."""
    train, val = (root / path for path in SOURCES["imagenet"].image_paths)
    if not train.is_dir() and not val.is_dir():
        raise missing_set("imagenet", root)
    wording = imagenet_classes()
    splits = [
        labelled_folder(name, folder, require_classes(folder, classes), only=True)
        if folder.is_dir()
        else FolderSet(name, folder, [], np.empty(0, dtype=np.int64))
        for folder in (train, val)
    ]
    names = [wording.get(wnid, wnid) for wnid in classes]
    return IdSet(name, list(classes), names, splits[0], splits[1] if len(splits[1]) else None)


def require_classes(folder: Path, classes: Sequence[str]) -> Sequence[str]:
    """Return the classes after checking that each has its folder.

    Raises:
        InputError: a class has no folder.
    """
    absent = sorted(set(classes) - set(class_folders(folder)))
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise InputError(
            f"{folder} has no class folder {absent[0]!r}{more} of the {len(classes)} requested: add them, or list the "
            "existing ones in a file for --data.class_list"
        )
    return classes


def id_eurosat(request: Request) -> IdSet:
    """EuroSAT, which has no official split: :func:`test_half` selects the test images, the rest is for training."""
    folder = request.root / SOURCES["eurosat"].image_paths[0]
    if not folder.is_dir():
        raise missing_set("eurosat", request.root)
    classes = list(require_classes(folder, request.classes or list(EUROSAT)))
    images = labelled_folder("eurosat", folder, classes, only=True)
    assert images.labels is not None
    tested = test_half(images.keys, images.labels)
    train, test = (
        FolderSet("eurosat", folder, [k for k, t in zip(images.keys, tested, strict=True) if t == half], labels)
        for half, labels in ((False, images.labels[~tested]), (True, images.labels[tested]))
    )
    return IdSet("eurosat", classes, [EUROSAT.get(c, c) for c in classes], train, test)


def test_half(keys: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Select the test images: of each class, the half (rounded down) with the smallest SHA-256 of their key.

    Args:
        keys: ``<class folder>/<file>`` of each image.
        labels: class indices (N).

    Returns:
        True for test images (N); the same for every seed, machine and order of the images.

    >>> test_half(["Forest/1.jpg", "Forest/2.jpg", "River/1.jpg", "River/2.jpg"], np.array([0, 0, 1, 1]))
    array([False,  True, False,  True])
    """
    tested = np.zeros(len(keys), dtype=bool)
    for label in np.unique(labels):
        ranked = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: digest(keys[i]))
        tested[ranked[: len(ranked) // 2]] = True
    return tested


def id_folder(path: Path, classes: Sequence[str] | None = None) -> IdSet:
    """A folder with ``train/<class>/`` and ``test/<class>/``, or only ``<class>/`` (then there is no test set).

    Args:
        path: the folder.
        classes: class folders to use; None: all.

    Raises:
        InputError: the folder does not exist, has no class folder, or lacks one of ``classes``; it is not clear which
            folders are splits and which are classes; ``test/`` has a class folder that ``train/`` lacks; a
            ``boxes.csv`` is malformed.
    """
    if not path.is_dir():
        raise InputError(
            f"--data.id: no folder {path}; it must contain train/<class>/ and test/<class>/, or <class>/ (relative "
            "paths are below --data.root or $CLIPOS_DATA)"
        )
    only = classes is not None
    listed = classes is not None and set(classes) <= set(class_folders(path))
    train_root, test_root = (None if listed else find_splits(path)) or (path, None)
    classes = class_folders(train_root) if classes is None else list(require_classes(train_root, classes))
    if not classes:
        raise InputError(f"--data.id: {train_root} has no class folders: put the images of each class into a folder")
    name = path.resolve().name
    train = labelled_folder(name, train_root, classes, only)
    if not only:
        check_classes(train_root, train.keys)
    test = labelled_folder(name, test_root, classes, only) if test_root is not None else None
    test = with_boxes(test) if test is not None and len(test) else None
    return IdSet(name, classes, folder_names(classes), train, test)
