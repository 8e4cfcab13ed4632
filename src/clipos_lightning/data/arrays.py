"""Readers of files of arrays: CIFAR's pickles, SVHN's MATLAB file, MedMNIST's npz. No code in them is executed."""

import pickle
import zipfile
import zlib
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (N, H, W, 3), labels (N,)

UNREADABLE = (  # the exceptions that broken files of arrays raise
    *(OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
    *(KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError),  # RuntimeError: an encrypted zip file
)


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler limited to the types in CIFAR's batches: dicts, lists, bytes, numbers and numpy arrays."""

    ALLOWED = frozenset(
        [("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype")]
        + [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return numpy's array constructors; raise ``UnpicklingError`` for everything else."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def read_cifar_batch(file: BufferedIOBase) -> Arrays:
    """Read images (N, 32, 32, 3) and labels (N) from a pickled batch of CIFAR-10 or CIFAR-100 (fine labels)."""
    batch = RestrictedUnpickler(file, encoding="latin1").load()
    images = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.asarray(batch.get("labels", batch.get("fine_labels")), dtype=np.int64)


def read_cifar(paths: Sequence[Path]) -> Arrays:
    """Read and concatenate several of CIFAR's batches."""
    parts = []
    for path in paths:
        with open(path, "rb") as file:
            parts.append(check_lengths(*read_cifar_batch(file)))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def read_svhn(path: Path) -> Arrays:
    """Read SVHN's cropped digits (N, 32, 32, 3) and their labels 0-9 (N).

    Raises:
        ValueError: the file is not a MATLAB file of images.
    """
    from scipy.io import loadmat  # slow to import, and only SVHN needs it

    try:
        arrays = loadmat(str(path))
    except Exception as error:  # scipy raises many kinds of errors for broken files
        raise ValueError(f"not a MATLAB file ({error})") from error
    return check_lengths(check_rgb(arrays["X"].transpose(3, 0, 1, 2)), arrays["y"].ravel().astype(np.int64) % 10)


def read_medmnist(path: Path, split: str) -> Arrays:
    """Read a split (train, val or test) of a MedMNIST file: images (N, H, W, 3) and labels (N)."""
    with np.load(path, allow_pickle=False) as arrays:
        return check_lengths(check_rgb(arrays[f"{split}_images"]), arrays[f"{split}_labels"].ravel().astype(np.int64))


def check_rgb(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the array after checking that it is RGB images, uint8 (N, H, W, 3).

    Raises:
        ValueError: it is not.
    """
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(f"expected images (N, H, W, 3) of uint8, got {array.dtype} {array.shape}")
    return array


def check_lengths(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Arrays:
    """Return images and labels after checking that there is one label per image.

    Raises:
        ValueError: their numbers differ.
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    return images, labels
