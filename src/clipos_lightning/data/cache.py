"""A memory-mapped cache of sets of small images of one size: decoded once, then read as one uint8 array.

It lies in ``.clipos-cache`` below the data root and can be removed at any time. Where the root cannot be written
there is none, and images are decoded each time. What is read is the same pixels either way.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..utils.files import atomic_write
from .arrays import Arrays
from .image_sets import ArraySet, FolderSet, ImageSet

FOLDER = ".clipos-cache"
SMALL = 64  # pixels a side, at the most
WORTH = 1000  # images, at the least: fewer are decoded in a moment
VERSION = b"2"  # of what is kept, and of its key


def cached_arrays(root: Path | None, sources: Iterable[Path], build: Callable[[], Arrays], part: str = "") -> Arrays:
    """Images (N, H, W, 3) and labels (N,), from the cache, else built and put there.

    Args:
        root: the data root; None: no cache.
        sources: the files that they are made from; their contents are the key.
        build: reads them.
        part: which part of those files it reads, where they hold several.
    """
    if root is None:
        return build()
    digest = hashlib.sha256(VERSION + part.encode())
    for path in sources:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    rows = load(root, digest.hexdigest())
    if rows is None:
        images, labels = build()
        rows = as_rows(images, labels)
        rows = keep(root, digest.hexdigest(), rows) if len(rows) >= WORTH else rows
    return rows["image"], rows["label"]


def cached_folder(images: FolderSet, root: Path, positions: int) -> ImageSet:
    """The same set from the cache, where it pays: many images, all of one small size, most of them to be read.

    Args:
        images: a folder of images.
        root: the data root.
        positions: how many of them will be read.
    """
    if len(images) < WORTH or positions < len(images) / 2:
        return images
    key = folder_digest(images)
    rows = load(root, key)
    if rows is None:
        pixels = decode_small(images) if os.access(root, os.W_OK) else None
        if pixels is None:
            return images
        rows = keep(root, key, as_rows(pixels, np.zeros(len(pixels), dtype=np.int64)))
    return ArraySet(images.name, rows["image"], images.labels, images.keys)


def folder_digest(images: FolderSet) -> str:
    """A digest of where the folder lies, and of every file's name, inode, size and times of change."""
    digest = hashlib.sha256(VERSION + os.fsencode(images.root.resolve()))
    for key in images.keys:
        stat = (images.root / key).stat()
        numbers = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(os.fsencode(f"\0{key}\0{numbers}"))
    return digest.hexdigest()


def decode_small(images: FolderSet) -> NDArray[np.uint8] | None:
    """Every image as one array (N, H, W, 3); None where one cannot be read, is large, or differs in size."""
    width, height = images.size(0)
    if max(width, height) > SMALL:
        return None
    pixels = np.empty((len(images), height, width, 3), dtype=np.uint8)
    for i in range(len(images)):
        try:
            picture = images.read(i).image
        except InputError:  # whoever reads that one will say so
            return None
        if picture.size != (width, height):
            return None
        pixels[i] = np.asarray(picture)
    return pixels


def as_rows(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[Any]:
    """One record an image: pixels and label, so that one file holds both."""
    rows = np.empty(len(images), dtype=[("image", "u1", images.shape[1:]), ("label", "<i8")])
    rows["image"], rows["label"] = images, labels
    return rows


def load(root: Path, key: str) -> NDArray[Any] | None:
    """The records kept under a key, mapped into memory; None: not there, or not such a file."""
    with suppress(OSError, ValueError, EOFError):
        rows = np.load(root / FOLDER / f"{key}.npy", mmap_mode="r", allow_pickle=False)
        if rows.dtype.names == ("image", "label"):
            return rows
    return None


def keep(root: Path, key: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Write the records, whole or not at all, and map them; the given ones where the root cannot be written."""
    with suppress(OSError):
        (root / FOLDER).mkdir(exist_ok=True)
        with atomic_write(root / FOLDER / f"{key}.npy") as partial, open(partial, "wb") as file:
            np.save(file, rows, allow_pickle=False)
    kept = load(root, key)
    return rows if kept is None else kept
