"""Sets of images by position: folders, arrays, procedural scenes; and the Dataset that brings them to model size."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from . import scenes
from .image_files import list_images
from .transforms import as_rgb, batch_to_model_size, mask_to_model_size, to_model_size


@dataclass
class LabelledPicture:
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
        one_size: every image has the size of the first, which need not be looked at.
    """

    one_size = False

    def __init__(
        self, name: str, keys: Sequence[str], labels: NDArray[np.int64] | None, has_masks: bool = False
    ) -> None:
        self.name, self.keys, self.labels, self.has_masks = name, keys, labels, has_masks

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def read(self, position: int) -> LabelledPicture:
        """The image at this position; an unreadable one is an InputError that names it."""

    def size(self, position: int) -> tuple[int, int]:
        """Width and height of the image at this position."""
        return self.read(position).image.size

    def shot_key(self, position: int) -> str:
        """Key for the few-shot draw: the path inside the class folder, or the index."""
        return self.keys[position]

    def shot_keys(self) -> list[str]:
        """That of every image."""
        return [self.shot_key(i) for i in range(len(self))]


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

    def read(self, position: int) -> LabelledPicture:
        """Decode the file."""
        return LabelledPicture(open_image(self.root / self.keys[position]))

    def size(self, position: int) -> tuple[int, int]:
        """From the file's head, without decoding it."""
        path = self.root / self.keys[position]
        try:
            with Image.open(path) as image:
                return image.size
        except Exception as error:  # whatever a decoder raises
            raise unreadable(path, error) from error

    def shot_key(self, position: int) -> str:
        """The path inside the class folder."""
        return self.keys[position].split("/", 1)[1]


class ArraySet(ImageSet):
    """Images held as one uint8 array (N, H, W, 3); an image's key is its index, or given."""

    one_size = True

    def __init__(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, [str(i) for i in range(len(images))] if keys is None else keys, labels)
        self.images = images

    def read(self, position: int) -> LabelledPicture:
        """One row of the array."""
        return LabelledPicture(Image.fromarray(self.images[position]))


class SceneSet(ImageSet):
    """Procedural pictures, 32 px, rendered when they are read; with true masks where there is an object.

    Args:
        kind: of ``scenes.KINDS``; the ID kind has labels, index modulo the number of its shapes.
        stream: train, tune or report: streams share no picture.
        seed: of the stream; the report stream is read with 0 whatever the run's seed.
        count: N.
    """

    one_size = True

    def __init__(self, kind: str, stream: str, seed: int, count: int) -> None:
        labels = np.arange(count) % len(scenes.ID_SHAPES) if kind == "id" else None
        super().__init__(kind, [str(i) for i in range(count)], labels, has_masks=kind == "id")
        self.kind, self.stream, self.seed = kind, stream, seed

    def read(self, position: int) -> LabelledPicture:
        """Render it."""
        scene = scenes.render(self.kind, self.stream, self.seed, position)
        return LabelledPicture(Image.fromarray(scene.image), scene.mask if self.has_masks else None)


class TorchvisionSet(ImageSet):
    """A torchvision data set whose items start with a PIL image (read as an OOD set, without labels)."""

    def __init__(self, name: str, parts: Sequence[Any], keys: Sequence[str]) -> None:
        super().__init__(name, keys, None)
        self.items = [(part, i) for part in parts for i in range(len(part))]

    def read(self, position: int) -> LabelledPicture:
        """torchvision's own reader."""
        part, i = self.items[position]
        try:
            return LabelledPicture(part[i][0])
        except OSError as error:
            raise unreadable(self.keys[position], error) from error


class ModelSizeImages(Dataset[dict[str, Tensor]]):
    """Positions of an image set as uint8 tensors at the model's size.

    Items: ``image`` (3, H, W) uint8, ``label`` (-1 without one), ``index`` (the position in the set), and ``mask``
    (H, W) where the set has true masks.

    Args:
        images: the set.
        positions: which of its images.
        size: the model's.
        batched: resize arrays of images by torch, many at once: faster, but not PIL's pixels to the last bit.
        raw: leave arrays of square images at their own size, for the backbone to resize on its device.
    """

    def __init__(
        self, images: ImageSet, positions: Sequence[int], size: int, batched: bool = False, raw: bool = False
    ) -> None:
        self.images, self.positions, self.size = images, positions, size
        square = isinstance(images, ArraySet) and images.images.shape[1] == images.images.shape[2]
        if raw and square:
            self.size = images.images.shape[1]  # type: ignore[attr-defined]
        self.batched = isinstance(images, ArraySet) and (batched or (raw and square))

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

    def __getitems__(self, rows: list[int]) -> list[dict[str, Tensor]]:
        """A batch, as the loader asks for it."""
        if not self.batched:
            return [self[i] for i in rows]
        assert isinstance(self.images, ArraySet)
        positions = [self.positions[i] for i in rows]
        pixels = batch_to_model_size(self.images.images[positions], self.size)
        labels = [-1] * len(rows) if self.images.labels is None else self.images.labels[positions].tolist()
        return [
            {"image": image, "label": torch.tensor(label), "index": torch.tensor(position)}
            for image, label, position in zip(pixels, labels, positions, strict=True)
        ]


def unreadable(path: Any, error: Exception) -> InputError:
    """The error for a broken image file."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"cannot read image {path}: {reason}. Repair it, or take it out of the folder")


def open_image(path: Path) -> Image.Image:
    """Decode an image file to RGB, upright.

    Raises:
        InputError: not an image, truncated, or not readable.
    """
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except Exception as error:  # whatever a decoder raises
        raise unreadable(path, error) from error


class MissingSet(InputError):
    """A set that is not there, or cannot be read for want of something.

    Attributes:
        why: what is wanting, in a few words.
        download: its name for ``clipos data download``, where that would help.
    """

    def __init__(self, why: str, message: str, download: str | None = None) -> None:
        super().__init__(message)
        self.why, self.download = why, download


def folder_images(name: str, root: Path) -> FolderSet:
    """Every image below a folder, as an OOD set.

    Raises:
        MissingSet: no such folder.
        InputError: no image in it.
    """
    if not root.is_dir():
        advice = "give an existing one, or set --data.root (or $CLIPOS_DATA)"
        raise MissingSet(f"no folder {root}", f"set {name!r}: no folder {root}; {advice}")
    keys = list_images(root)
    if not keys:
        raise InputError(f"set {name!r}: no image below {root}")
    return FolderSet(name, root, keys)


def class_folders(root: Path) -> list[str]:
    """Names of the sub-folders, sorted: the classes."""
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def labelled_folder(name: str, root: Path, classes: Sequence[str], only: bool = False) -> FolderSet:
    """Images below ``root/<class>/`` with their class index.

    Args:
        name: as it stands in reports.
        root: the folder of class folders.
        classes: their names.
        only: other class folders are left out; else they are an error.

    Raises:
        InputError: a class folder that is not among ``classes``.
    """
    strange = [] if only else sorted(set(class_folders(root)) - set(classes))
    if strange:
        raise InputError(f"{root} has class folders that train/ has not: {', '.join(strange[:5])}. Remove or add them")
    index = {c: i for i, c in enumerate(classes)}
    keys = sorted(f"{c}/{key}" for c in classes for key in list_images(root / c))
    labels = np.array([index[k.split("/", 1)[0]] for k in keys], dtype=np.int64)
    return FolderSet(name, root, keys, labels)
