"""Readers of the in-distribution sets: what is at hand for a name, its classes and their wording."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import scenes
from .arrays import UNREADABLE, Arrays, read_cifar, read_medmnist
from .boxes import with_boxes
from .cache import cached_arrays
from .classnames import (
    BLOODMNIST,
    CIFAR10,
    CIFAR100,
    EUROSAT,
    folder_class_names,
    imagenet100_classes,
    imagenet_classes,
)
from .image_sets import ArraySet, FolderSet, ImageSet, MissingSet, SceneSet, class_folders, labelled_folder
from .sources import SOURCES
from .splits import digest

SCENE_POOL = 1000  # training pictures per class of `scenes`, at the least
SCENE_ID_COUNT = 1000


@dataclass
class IdSet:
    """An in-distribution set.

    Attributes:
        name: as it stands in reports.
        class_keys: class folder names, or class indices as text for sets that come as arrays.
        class_names: as they stand in the prompts.
        train: where the few-shot images come from.
        test: the test set, or None.
    """

    name: str
    class_keys: list[str]
    class_names: list[str]
    train: ImageSet
    test: ImageSet | None


@dataclass(frozen=True)
class Request:
    """What a reader is asked for: where, the draw's seed and shots, which class folders (None: all), cached or not."""

    root: Path
    seed: int = 1
    shots: int | str = 1
    classes: Sequence[str] | None = None
    cache: bool = True

    @property
    def kept(self) -> Path | None:
        """Where arrays are cached."""
        return self.root if self.cache else None


def missing(name: str, root: Path) -> MissingSet:
    """The error for a set that does not lie below the root."""
    source = SOURCES[name]
    place = source.holds[0]
    advice = f"clipos data download {name} --root {root}" if source.fetchable else f"see clipos data info {name}"
    message = f"{source.title} is not below {root} (no {root / place}): {advice}, or set --data.root (or $CLIPOS_DATA)"
    return MissingSet(f"no {place}", message, name if source.fetchable else None)


def broken(name: str, path: Path, error: Exception) -> InputError:
    """The error for a file of arrays that cannot be read."""
    reason = " ".join(str(error).split())
    return InputError(
        f"cannot read {SOURCES[name].title} in {path}: {reason}. Remove it and run clipos data download {name} again"
    )


def id_scenes(asked: Request) -> IdSet:
    """The embedded procedural set: 10 shapes; the training stream has as many pictures as are asked for."""
    classes = len(scenes.ID_SHAPES)
    pool = max(SCENE_POOL, asked.shots if isinstance(asked.shots, int) else 0)
    train = SceneSet("id", "train", asked.seed, pool * classes)
    test = SceneSet("id", "report", 0, SCENE_ID_COUNT)
    return IdSet("scenes", [str(i) for i in range(classes)], list(scenes.ID_SHAPES), train, test)


def id_cifar10(asked: Request) -> IdSet:
    """CIFAR-10 as its own python batches, in ``cifar-10-batches-py`` below the root (or ``cifar10/``)."""
    return id_cifar("cifar10", CIFAR10, asked)


def id_cifar100(asked: Request) -> IdSet:
    """CIFAR-100's fine labels, as its own python batches, in ``cifar-100-python`` below the root."""
    return id_cifar("cifar100", CIFAR100, asked)


def id_cifar(name: str, names: Sequence[str], asked: Request) -> IdSet:
    """Either, training and test split."""
    return arrays(name, names, read_cifar_split(name, asked, "train"), read_cifar_split(name, asked, "test"))


def read_cifar_split(name: str, asked: Request, split: str) -> Arrays:
    """CIFAR's training or test batches: the test batch is the last of those that the set holds."""
    holds = SOURCES[name].holds
    folder = next((f for f in (asked.root, asked.root / name) if (f / holds[0]).parent.is_dir()), None)
    if folder is None:
        raise missing(name, asked.root)
    paths = [folder / path for path in (holds[:-1] if split == "train" else holds[-1:])]
    try:
        return cached_arrays(asked.kept, paths, lambda: read_cifar(paths))
    except UNREADABLE as error:
        raise broken(name, paths[0].parent, error) from error


def arrays(name: str, names: Sequence[str], train: Arrays, test: Arrays) -> IdSet:
    """An ID set of arrays; its classes are 0, 1, … in the order of their names."""
    for images, labels in (train, test):
        if len(images) and not 0 <= labels.min() <= labels.max() < len(names):
            raise InputError(f"{SOURCES[name].title}: a label outside 0–{len(names) - 1}; download it again")
    keys = [str(i) for i in range(len(names))]
    return IdSet(name, keys, list(names), ArraySet(name, *train), ArraySet(name, *test))


def id_medmnist(asked: Request) -> IdSet:
    """BloodMNIST: the training and the test split of its own file."""
    path = asked.root / SOURCES["medmnist"].holds[0]
    if not path.is_file():
        raise missing("medmnist", asked.root)

    def split(name: str) -> Arrays:
        return cached_arrays(asked.kept, [path], lambda: read_medmnist(path, name), name)

    try:
        return arrays("medmnist", BLOODMNIST, split("train"), split("test"))
    except UNREADABLE as error:
        raise broken("medmnist", path, error) from error


def id_imagenet1k(asked: Request) -> IdSet:
    """ImageNet-1k as folders by WordNet id; sorted ids are the index order."""
    return imagenet("imagenet1k", asked.root, asked.classes or list(imagenet_classes()))


def id_imagenet100(asked: Request) -> IdSet:
    """A hundred of ImageNet's classes: MCM's, or those of ``--data.class_list``."""
    return imagenet("imagenet100", asked.root, asked.classes or imagenet100_classes())


def imagenet(name: str, root: Path, classes: Sequence[str]) -> IdSet:
    """Classes of ImageNet; ``train`` may be missing where nothing is trained."""
    train, val = (root / path for path in SOURCES["imagenet"].holds)
    if not train.is_dir() and not val.is_dir():
        raise missing("imagenet", root)
    wording = imagenet_classes()
    found = [
        labelled_folder(name, folder, picked(folder, classes), only=True) if folder.is_dir() else empty(name, folder)
        for folder in (train, val)
    ]
    names = [wording.get(wnid, wnid) for wnid in classes]
    return IdSet(name, list(classes), names, found[0], found[1] if len(found[1]) else None)


def empty(name: str, folder: Path) -> FolderSet:
    """A set of no images."""
    return FolderSet(name, folder, [], np.empty(0, dtype=np.int64))


def picked(folder: Path, classes: Sequence[str]) -> Sequence[str]:
    """The classes, if each has its folder.

    Raises:
        InputError: one has none.
    """
    lacking = sorted(set(classes) - set(class_folders(folder)))
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(
            f"{folder} has no class folder {lacking[0]!r}{more} of the {len(classes)} asked for: add them, or name "
            "those that are there in a file for --data.class_list"
        )
    return classes


def id_eurosat(asked: Request) -> IdSet:
    """EuroSAT, which has no split of its own: the test half is drawn by rule (:func:`test_half`)."""
    folder = asked.root / SOURCES["eurosat"].holds[0]
    if not folder.is_dir():
        raise missing("eurosat", asked.root)
    classes = list(picked(folder, asked.classes or list(EUROSAT)))
    whole = labelled_folder("eurosat", folder, classes, only=True)
    assert whole.labels is not None
    tested = test_half(whole.keys, whole.labels)
    train, test = (
        FolderSet("eurosat", folder, [k for k, t in zip(whole.keys, tested, strict=True) if t == half], labels)
        for half, labels in ((False, whole.labels[~tested]), (True, whole.labels[tested]))
    )
    return IdSet("eurosat", classes, [EUROSAT.get(c, c) for c in classes], train, test)


def test_half(keys: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images are for testing: of each class the half (rounded down) with the smallest sha256 of its key.

    Args:
        keys: "<class folder>/<file>".
        labels: class indices (N,).

    Returns:
        (N,), whatever the order, the seed and the machine the same images.
    """
    tested = np.zeros(len(keys), dtype=bool)
    for label in np.unique(labels):
        ranked = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: digest(keys[i]))
        tested[ranked[: len(ranked) // 2]] = True
    return tested


def is_split(path: Path) -> bool:
    """Whether a folder holds ``train/<class>/`` (and ``test/``) rather than classes, of which one is called train."""
    train = path / "train"
    return train.is_dir() and bool(class_folders(train) or set(class_folders(path)) <= {"train", "val", "test"})


def id_folder(path: Path, classes: Sequence[str] | None = None) -> IdSet:
    """A folder with ``train/<class>/`` and ``test/<class>/``, or ``<class>/`` alone (then there is no test set)."""
    if not path.is_dir():
        raise InputError(
            f"--data.id: no folder {path}; it must hold train/<class>/ and test/<class>/, or <class>/ (relative paths "
            "lie below --data.root, or $CLIPOS_DATA)"
        )
    split = is_split(path)
    train_root = path / "train" if split else path
    only = classes is not None
    classes = class_folders(train_root) if classes is None else list(picked(train_root, classes))
    if len(classes) < 2:
        raise InputError(f"--data.id: {train_root} has {len(classes)} class folders; it takes at least two")
    name = path.resolve().name
    train = labelled_folder(name, train_root, classes, only)
    test = labelled_folder(name, path / "test", classes, only) if split and (path / "test").is_dir() else None
    test = with_boxes(test) if test is not None and len(test) else None
    return IdSet(name, classes, folder_class_names(classes), train, test)
