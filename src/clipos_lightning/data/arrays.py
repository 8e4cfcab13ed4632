"""Sets that come as files of arrays: CIFAR's pickles, SVHN's MATLAB file, MedMNIST's npz. Nothing in them is run."""

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

UNREADABLE = (  # what a broken file of arrays raises
    *(OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
    *(KeyError, ValueError, TypeError, AttributeError, IndexError),
)


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


def read_cifar_batch(file: BufferedIOBase) -> Arrays:
    """Images (N, 32, 32, 3) and labels (N,) of one of CIFAR-10's or CIFAR-100's pickled batches (fine labels)."""
    batch = RestrictedUnpickler(file, encoding="latin1").load()
    images = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.asarray(batch.get("labels", batch.get("fine_labels")), dtype=np.int64)


def read_cifar(paths: Sequence[Path]) -> Arrays:
    """CIFAR's batches, one after another."""
    parts = []
    for path in paths:
        with open(path, "rb") as file:
            parts.append(paired(*read_cifar_batch(file)))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def read_svhn(path: Path) -> Arrays:
    """SVHN's cropped digits, (N, 32, 32, 3), and which digit each is.

    Raises:
        ValueError: not such a file.
    """
    from scipy.io import loadmat  # slow to import, and only SVHN needs it

    try:
        arrays = loadmat(str(path))
    except Exception as error:  # a broken file: scipy has many errors for it
        raise ValueError(f"not a MATLAB file ({error})") from error
    return paired(as_images(arrays["X"].transpose(3, 0, 1, 2)), arrays["y"].ravel().astype(np.int64) % 10)


def read_medmnist(path: Path, split: str) -> Arrays:
    """A split (train, val or test) of one of MedMNIST's files; never unpickles anything."""
    with np.load(path, allow_pickle=False) as arrays:
        return paired(as_images(arrays[f"{split}_images"]), arrays[f"{split}_labels"].ravel().astype(np.int64))


def as_images(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The array, if it is one of RGB images.

    Raises:
        ValueError: it is not (N, H, W, 3) of bytes.
    """
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(f"an array of {array.dtype} {array.shape} where images (N, H, W, 3) of bytes should be")
    return array


def paired(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Arrays:
    """Both, if there is a label for each image."""
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    return images, labels
