"""Sets of images by position: folders, arrays, procedural scenes; and the Dataset that brings them to model size."""

import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from . import scenes
from .transforms import mask_to_model_size, to_model_size

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass
class Picture:
    """One image, and where the set has them the true object mask, (H, W) in [0, 1]."""

    image: Image.Image
    mask: NDArray[np.float32] | None = None


class ImageSet(ABC):
    """N images by position.

    Attributes:
        name: as it stands in reports.
        keys: each image's path inside the set, or its index; names it in manifests and scores.
        labels: class indices (N,), or None for an OOD set.
        has_masks: true object masks come with the pictures.
    """

    def __init__(
        self, name: str, keys: Sequence[str], labels: NDArray[np.int64] | None, has_masks: bool = False
    ) -> None:
        self.name, self.keys, self.labels, self.has_masks = name, keys, labels, has_masks

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def read(self, position: int) -> Picture:
        """The image at this position; an unreadable one is an InputError that names it."""

    def shot_keys(self) -> Sequence[str]:
        """Keys for the few-shot draw: the path inside the class folder, or the index."""
        return self.keys


class FolderSet(ImageSet):
    """Image files below a folder.

    Args:
        name: as it stands in reports.
        root: the folder.
        keys: POSIX paths below it.
        labels: class indices, then each key's first part is the class folder.
    """

    def __init__(self, name: str, root: Path, keys: Sequence[str], labels: NDArray[np.int64] | None = None) -> None:
        super().__init__(name, keys, labels)
        self.root = root

    def read(self, position: int) -> Picture:
        """Decode the file."""
        return Picture(open_image(self.root / self.keys[position]))

    def shot_keys(self) -> Sequence[str]:
        """Paths inside the class folders."""
        return [key.split("/", 1)[1] for key in self.keys]


class ArraySet(ImageSet):
    """Images held as one uint8 array (N, H, W, 3)."""

    def __init__(self, name: str, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        super().__init__(name, [str(i) for i in range(len(images))], labels)
        self.images = images

    def read(self, position: int) -> Picture:
        """One row of the array."""
        return Picture(Image.fromarray(self.images[position]))


class SceneSet(ImageSet):
    """Procedural pictures, 32 px, rendered when they are read; with true masks where there is an object.

    Args:
        kind: of ``scenes.KINDS``; the ID kind has labels, index modulo the number of its shapes.
        stream: train, tune or report: streams share no picture.
        seed: of the stream; the report stream is read with 0 whatever the run's seed.
        count: N.
    """

    def __init__(self, kind: str, stream: str, seed: int, count: int) -> None:
        labels = np.arange(count) % len(scenes.ID_SHAPES) if kind == "id" else None
        super().__init__(kind, [str(i) for i in range(count)], labels, has_masks=kind == "id")
        self.kind, self.stream, self.seed = kind, stream, seed

    def read(self, position: int) -> Picture:
        """Render it."""
        scene = scenes.render(self.kind, self.stream, self.seed, position)
        return Picture(Image.fromarray(scene.image), scene.mask if self.has_masks else None)


class TorchvisionSet(ImageSet):
    """A torchvision data set whose items start with a PIL image (read as an OOD set, without labels)."""

    def __init__(self, name: str, parts: Sequence[Any], keys: Sequence[str]) -> None:
        super().__init__(name, keys, None)
        self.items = [(part, i) for part in parts for i in range(len(part))]

    def read(self, position: int) -> Picture:
        """torchvision's own reader."""
        part, i = self.items[position]
        try:
            return Picture(part[i][0])
        except OSError as error:
            raise unreadable(self.keys[position], error) from error


class ModelSizeImages(Dataset[dict[str, Tensor]]):
    """Positions of an image set as uint8 tensors at the model's size.

    Items: ``image`` (3, H, W) uint8, ``label`` (-1 without one), ``index`` (the position in the set), and ``mask``
    (H, W) where the set has true masks.
    """

    def __init__(self, images: ImageSet, positions: Sequence[int], size: int) -> None:
        self.images, self.positions, self.size = images, positions, size

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        position = self.positions[i]
        picture = self.images.read(position)
        label = -1 if self.images.labels is None else int(self.images.labels[position])
        item = {
            "image": to_model_size(picture.image, self.size),
            "label": torch.tensor(label),
            "index": torch.tensor(position),
        }
        if picture.mask is not None:
            item["mask"] = mask_to_model_size(picture.mask, self.size)
        return item


def unreadable(path: Any, error: Exception) -> InputError:
    """The error for a broken image file."""
    reason = " ".join(str(error).split())
    return InputError(f"cannot read image {path}: {reason}. Repair it, or take it out of the folder")


def open_image(path: Path) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        InputError: not an image, truncated, or not readable.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16-bit greyscale, which PIL would clip to white
                return Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error


def list_images(root: Path) -> list[str]:
    """POSIX paths of the image files below a folder, sorted; hidden files and folders are left out."""
    found = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder).resolve()
        loops = {s for s in subfolders if here.is_relative_to((Path(folder) / s).resolve())}  # a link to a folder above
        subfolders[:] = [s for s in subfolders if not s.startswith(".") and s not in loops]
        below = Path(folder).relative_to(root)
        found += [(below / n).as_posix() for n in names if Path(n).suffix.lower() in SUFFIXES and n[0] != "."]
    return sorted(found)


def folder_images(name: str, root: Path) -> FolderSet:
    """Every image below a folder, as an OOD set.

    Raises:
        InputError: no such folder, or no image in it.
    """
    if not root.is_dir():
        raise InputError(f"set {name!r}: no folder {root}; give an existing one, or set --data.root (or $CLIPOS_DATA)")
    keys = list_images(root)
    if not keys:
        raise InputError(f"set {name!r}: no image below {root}")
    return FolderSet(name, root, keys)


def class_folders(root: Path) -> list[str]:
    """Names of the sub-folders, sorted: the classes."""
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def labelled_folder(name: str, root: Path, classes: Sequence[str]) -> FolderSet:
    """Images below ``root/<class>/`` with their class index.

    Raises:
        InputError: a class folder that is not among ``classes``.
    """
    strange = sorted(set(class_folders(root)) - set(classes))
    if strange:
        raise InputError(f"{root} has class folders that train/ has not: {', '.join(strange[:5])}. Remove or add them")
    index = {c: i for i, c in enumerate(classes)}
    keys = [k for k in list_images(root) if "/" in k]
    labels = np.array([index[k.split("/", 1)[0]] for k in keys], dtype=np.int64)
    return FolderSet(name, root, keys, labels)


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickles nothing but what CIFAR's batches hold: dicts, lists, bytes, numbers, numpy arrays."""

    ALLOWED = frozenset(
        [("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype")]
        + [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> Any:
        """Only numpy's array constructors."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def read_cifar_batch(file: BinaryIO) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 32, 32, 3) and labels (N,) of one of CIFAR-10's or CIFAR-100's pickled batches."""
    batch = RestrictedUnpickler(file, encoding="latin1").load()
    images = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.asarray(batch.get("labels", batch.get("fine_labels")), dtype=np.int64)
