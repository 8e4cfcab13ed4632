"""A memory-mapped cache for sets of small images of one size: decoded once, then read as one uint8 array.

It is the folder ``.clipos-cache`` below the data root and can be deleted at any time. If the root is not writable,
nothing is cached and images are decoded each time; the pixels are the same either way.
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

CACHE_FOLDER = ".clipos-cache"
MAX_SIDE = 64  # pixels; larger images are not cached
MIN_IMAGES = 1000  # smaller sets are decoded fast enough
CACHE_VERSION = b"3"  # part of the key: change it with the file format or the key


def cached_arrays(root: Path | None, sources: Iterable[Path], build: Callable[[], Arrays], part: str = "") -> Arrays:
    """Read images (N, H, W, 3) and labels (N) from the cache, or build and cache them.

    Args:
        root: the data root; None: no cache.
        sources: the files that ``build`` reads; their content is the key.
        build: reads images and labels from the source files.
        part: what ``build`` reads of the files if they hold several sets; part of the key.
    """
    if root is None:
        return build()
    digest = hashlib.sha256(CACHE_VERSION + part.encode())
    for path in sources:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    rows = load(root, digest.hexdigest())
    if rows is None:
        images, labels = build()
        rows = as_rows(images, labels)
        rows = save(root, digest.hexdigest(), rows) if len(rows) >= MIN_IMAGES else rows
    return rows["image"], rows["label"]


def cached_folder(images: FolderSet, root: Path, positions: int) -> ImageSet:
    """Replace a folder by its cached array if that is faster; the images stay the same.

    Caching is faster for at least ``MIN_IMAGES`` images of one size of at most ``MAX_SIDE`` pixels, of which at least
    half will be read.

    Args:
        images: a folder of images.
        root: the data root.
        positions: number of images that will be read.

    Returns:
        The cached set, or ``images``.
    """
    if len(images) < MIN_IMAGES or positions < len(images) / 2:
        return images
    try:
        key = folder_digest(images)
    except OSError:  # the reader of that image reports the error
        return images
    rows = load(root, key)
    if rows is None:
        pixels = decode_small(images) if os.access(root, os.W_OK) else None
        if pixels is None:
            return images
        rows = save(root, key, as_rows(pixels, np.zeros(len(pixels), dtype=np.int64)))
    return ArraySet(images.name, rows["image"], images.labels, images.keys)


def folder_digest(images: FolderSet) -> str:
    """A digest of the folder's path, the background, and each file's name, inode, size, mtime and ctime."""
    digest = hashlib.sha256(CACHE_VERSION + os.fsencode(f"{images.root.resolve()}\0{images.decoding.background}"))
    for key in images.keys:
        stat = (images.root / key).stat()
        numbers = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(os.fsencode(f"\0{key}\0{numbers}"))
    return digest.hexdigest()


def decode_small(images: FolderSet) -> NDArray[np.uint8] | None:
    """Decode all images to one array (N, H, W, 3).

    Returns:
        The array; None if an image cannot be read, is larger than ``MAX_SIDE``, or differs in size from the first.
    """
    try:
        width, height = images.size(0)
        if max(width, height) > MAX_SIDE:
            return None
        pixels = np.empty((len(images), height, width, 3), dtype=np.uint8)
        for i in range(len(images)):
            image = images.read(i).image
            if image.size != (width, height):
                return None
            pixels[i] = np.asarray(image)
    except InputError:  # the reader of that image reports the error
        return None
    return pixels


def as_rows(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[Any]:
    """Images and labels as one structured array (N) with fields ``image`` and ``label``, for a single file."""
    rows = np.empty(len(images), dtype=[("image", "u1", images.shape[1:]), ("label", "<i8")])
    rows["image"], rows["label"] = images, labels
    return rows


def load(root: Path, key: str) -> NDArray[Any] | None:
    """Memory-map the records cached under a key; None if there are none, or the file is broken."""
    path = root / CACHE_FOLDER / f"{key}.npy"
    with suppress(Exception):  # the type depends on how the file is broken
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if rows.dtype.names == ("image", "label") and rows.offset + rows.nbytes == path.stat().st_size:
            return rows
    return None


def save(root: Path, key: str, rows: NDArray[Any]) -> NDArray[Any]:
    """Write records to the cache atomically and memory-map them; return ``rows`` itself if the root is not writable."""
    with suppress(OSError):
        (root / CACHE_FOLDER).mkdir(exist_ok=True)
        with atomic_write(root / CACHE_FOLDER / f"{key}.npy") as partial, open(partial, "wb") as file:
            np.save(file, rows, allow_pickle=False)
    saved = load(root, key)
    return rows if saved is None else saved
