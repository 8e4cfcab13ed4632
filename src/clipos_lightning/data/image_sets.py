"""Image sets (folders, arrays, rendered scenes), and the Dataset that yields their images at the model's input size."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from . import scenes
from .decoding import DEFAULT, image_size, many_unreadable, open_image
from .image_files import list_images, no_images_error
from .preprocessing import Preprocessing
from .styles import PHOTO
from .transforms import batch_to_model_size, mask_to_model_size, to_model_size


@dataclass
class ImageSample:
    """An image and, if the set has them, its ground-truth object mask (H, W) in [0, 1]."""

    image: Image.Image
    mask: NDArray[np.float32] | None = None


class ImageSet(ABC):
    """A sequence of N images, read by position.

    Attributes:
        name: name of the set in reports.
        keys: path of each image inside the set, or its index; identifies the image in shots.json and in score files.
        labels: class indices (N), or None for an OOD set.
        has_masks: whether images have ground-truth object masks.
        uniform_size: whether all images are known to have one size, without reading them.
        decoding: how image files become pixels.
    """

    uniform_size = False
    decoding = DEFAULT

    def __init__(
        self, name: str, keys: Sequence[str], labels: NDArray[np.int64] | None, has_masks: bool = False
    ) -> None:
        self.name, self.keys, self.labels, self.has_masks = name, keys, labels, has_masks

    def __len__(self) -> int:
        return len(self.keys)

    @abstractmethod
    def read(self, position: int) -> ImageSample:
        """Read the image at a position.

        Raises:
            InputError: the image cannot be read; the message names it.
        """

    def size(self, position: int) -> tuple[int, int]:
        """Width and height in pixels of the image at a position."""
        return self.read(position).image.size

    def shot_key(self, position: int) -> str:
        """Key of an image in the few-shot draw: its path inside the class folder, or its index."""
        return self.keys[position]

    def shot_keys(self) -> list[str]:
        """:meth:`shot_key` of every image."""
        return [self.shot_key(i) for i in range(len(self))]


class FolderSet(ImageSet):
    """Image files below a folder.

    Args:
        name: name of the set in reports.
        root: the folder.
        keys: POSIX paths of the N images, relative to the folder; with labels, they start with the class folder.
        labels: class indices (N), or None.
    """

    def __init__(self, name: str, root: Path, keys: Sequence[str], labels: NDArray[np.int64] | None = None) -> None:
        super().__init__(name, keys, labels)
        self.root = root

    def read(self, position: int) -> ImageSample:
        """Decode the image file."""
        return ImageSample(open_image(self.root / self.keys[position], self.decoding))

    def size(self, position: int) -> tuple[int, int]:
        """Width and height from the header of the file, without decoding it."""
        return image_size(self.root / self.keys[position], self.decoding)

    def shot_key(self, position: int) -> str:
        """The path inside the class folder."""
        return self.keys[position].split("/", 1)[1]


class ArraySet(ImageSet):
    """Images in memory, as one array.

    Args:
        name: name of the set in reports.
        images: RGB images, uint8 (N, H, W, 3).
        labels: class indices (N), or None.
        keys: keys of the images; None: their indices.
    """

    uniform_size = True

    def __init__(
        self,
        name: str,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, [str(i) for i in range(len(images))] if keys is None else keys, labels)
        self.images = images

    def read(self, position: int) -> ImageSample:
        """One row of the array."""
        return ImageSample(Image.fromarray(self.images[position]))


class SceneSet(ImageSet):
    """The embedded ``scenes``: 32-pixel images that are rendered when they are read; ID images have object masks.

    Args:
        kind: one of ``scenes.KINDS``; images of kind ``id`` have labels: the index modulo the number of classes.
        stream: ``train``, ``tune`` or ``report``; different streams have no image in common.
        seed: seed of the stream; test sets take the report stream with seed 0, whatever the run's seed.
        count: number of images N.
        style: ``photo`` or a key of ``styles.STYLES``.
    """

    uniform_size = True

    def __init__(self, kind: str, stream: str, seed: int, count: int, style: str = PHOTO) -> None:
        labels = np.arange(count) % len(scenes.ID_SHAPES) if kind == "id" else None
        super().__init__(kind, [str(i) for i in range(count)], labels, has_masks=kind == "id")
        self.kind, self.stream, self.seed, self.style = kind, stream, seed, style

    def read(self, position: int) -> ImageSample:
        """Render the image."""
        scene = scenes.render(self.kind, self.stream, self.seed, position, style=self.style)
        return ImageSample(Image.fromarray(scene.image), scene.mask if self.has_masks else None)


def unreadable_in(images: ImageSet, positions: Sequence[int], option: str = "") -> InputError:
    """The error that names all images at these positions that cannot be read, of which there is at least one.

    Args:
        images: the set.
        positions: of the images to decode.
        option: that leaves unreadable images out; "": there is none.
    """
    errors = []
    for position in positions:
        try:
            images.read(position)
        except InputError as error:
            errors.append(str(error))
    return many_unreadable(errors, option)


class ModelSizeImages(Dataset[dict[str, Tensor]]):
    """Selected images of a set as uint8 tensors, resized and cropped or padded to the model's input.

    Items: ``image`` uint8 (3, size, size), ``label`` (-1 for OOD sets), ``index`` (the position in the set) and, if the
    set has ground-truth masks, ``mask`` (size, size).

    Args:
        images: the set.
        positions: positions of the selected images.
        preprocessing: of the model.
        batched: resize arrays of images in batches with torch: faster, but pixels may differ from PIL's by 2/255.
        raw: leave arrays of square images at their native size S: ``image`` is (3, S, S), for the backbone to resize on
            its device.

    >>> images = ModelSizeImages(SceneSet("id", "report", seed=0, count=20), [13, 4], Preprocessing(48))
    >>> {name: tuple(value.shape) for name, value in images[0].items()}
    {'image': (3, 48, 48), 'label': (), 'index': (), 'mask': (48, 48)}
    """

    def __init__(
        self,
        images: ImageSet,
        positions: Sequence[int],
        preprocessing: Preprocessing,
        batched: bool = False,
        raw: bool = False,
    ) -> None:
        self.images, self.positions, self.preprocessing = images, positions, preprocessing
        square = isinstance(images, ArraySet) and images.images.shape[1] == images.images.shape[2]
        if raw and square:
            side = images.images.shape[1]  # type: ignore[attr-defined]
            self.preprocessing = replace(preprocessing, size=side)
        self.batched = isinstance(images, ArraySet) and (batched or (raw and square))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        position = self.positions[i]
        try:
            sample = self.images.read(position)
        except InputError as error:
            raise unreadable_in(self.images, self.positions[i:], "--data.unreadable skip") from error
        label = -1 if self.images.labels is None else int(self.images.labels[position])
        item = {
            "image": to_model_size(sample.image, self.preprocessing),
            "label": torch.tensor(label),
            "index": torch.tensor(position),
        }
        if sample.mask is not None:
            item["mask"] = mask_to_model_size(sample.mask, self.preprocessing)
        return item

    def __getitems__(self, rows: list[int]) -> list[dict[str, Tensor]]:
        """The items of a batch; DataLoader calls this instead of ``__getitem__``."""
        if not self.batched:
            return [self[i] for i in rows]
        assert isinstance(self.images, ArraySet)
        positions = [self.positions[i] for i in rows]
        pixels = batch_to_model_size(self.images.images[positions], self.preprocessing)
        labels = [-1] * len(rows) if self.images.labels is None else self.images.labels[positions].tolist()
        return [
            {"image": image, "label": torch.tensor(label), "index": torch.tensor(position)}
            for image, label, position in zip(pixels, labels, positions, strict=True)
        ]


class MissingSet(InputError):
    """A set is not below the data root, or cannot be read because a dependency is missing.

    Attributes:
        why: what is missing, in a few words.
        download: name of the set for ``clipos data download``; None if it cannot be downloaded, or that would not help.
    """

    def __init__(self, why: str, message: str, download: str | None = None) -> None:
        super().__init__(message)
        self.why, self.download = why, download


def folder_images(name: str, root: Path) -> FolderSet:
    """All images below a folder, as an OOD set.

    Raises:
        MissingSet: the folder does not exist.
        InputError: it contains no image.
    """
    if not root.is_dir():
        advice = "use an existing one, or set --data.root (or $CLIPOS_DATA)"
        raise MissingSet(f"no folder {root}", f"set {name!r}: no folder {root}; {advice}")
    keys = list_images(root)
    if not keys:
        raise no_images_error(f"set {name!r}", root)
    return FolderSet(name, root, keys)


def class_folders(root: Path) -> list[str]:
    """Names of the sub-folders (the classes), sorted; hidden ones are skipped."""
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def labelled_folder(name: str, root: Path, classes: Sequence[str], only: bool = False) -> FolderSet:
    """The images below ``root/<class>/``, labelled with the index of their class.

    Args:
        name: name of the set in reports.
        root: folder that contains the class folders.
        classes: names of the class folders, in label order.
        only: ignore other class folders; otherwise they are an error.

    Raises:
        InputError: there is a class folder that is not in ``classes``, and ``only`` is False.
    """
    unknown = [] if only else sorted(set(class_folders(root)) - set(classes))
    if unknown:
        raise InputError(f"{root} has class folders that train/ lacks: {', '.join(unknown[:5])}. Remove or add them")
    index = {c: i for i, c in enumerate(classes)}
    keys = sorted(f"{c}/{key}" for c in classes for key in list_images(root / c))
    labels = np.array([index[k.split("/", 1)[0]] for k in keys], dtype=np.int64)
    return FolderSet(name, root, keys, labels)
