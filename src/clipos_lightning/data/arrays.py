"""Readers of files of arrays: CIFAR's pickles, SVHN's MATLAB file, MedMNIST's npz. No code in them is executed."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (N, H, W, 3), labels (N,)

UNREADABLE = (OSError, ValueError)  # what the readers below raise for a file that is missing or broken


@contextmanager
def parsing(kind: str) -> Iterator[None]:
    """Turn the errors of the libraries that parse a file, which are of many types, into ValueError.

    Args:
        kind: of the file, for the message.

    Example:
        >>> with parsing("a table"):
        ...     {}["images"]
        Traceback (most recent call last):
        ValueError: not a table (KeyError: 'images')
    """
    try:
        yield
    except UNREADABLE:
        raise
    except Exception as error:
        raise ValueError(f"not {kind} ({type(error).__name__}: {' '.join(str(error).split())[:120]})") from error


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


@parsing("a batch of CIFAR")
def read_cifar_batch(file: BufferedIOBase) -> Arrays:
    """Read images (N, 32, 32, 3) and labels (N) from a pickled batch of CIFAR-10 or CIFAR-100 (fine labels).

    Raises:
        ValueError: it is not such a batch.
    """
    batch = RestrictedUnpickler(file, encoding="latin1").load()
    images = np.asarray(batch["data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return check_arrays(images, np.asarray(batch.get("labels", batch.get("fine_labels"))))


def read_cifar(paths: Sequence[Path]) -> Arrays:
    """Read and concatenate several of CIFAR's batches."""
    parts = []
    for path in paths:
        with open(path, "rb") as file:
            parts.append(read_cifar_batch(file))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


@parsing("a MATLAB file of SVHN")
def read_svhn(path: Path) -> Arrays:
    """Read SVHN's cropped digits (N, 32, 32, 3) and their labels 0-9 (N).

    Raises:
        ValueError: the file is not a MATLAB file of images.
    """
    from scipy.io import loadmat  # slow to import, and only SVHN needs it

    arrays = loadmat(str(path))
    return check_arrays(arrays["X"].transpose(3, 0, 1, 2), arrays["y"].ravel() % 10)


@parsing("a file of MedMNIST")
def read_medmnist(path: Path, split: str) -> Arrays:
    """Read a split (train, val or test) of a MedMNIST file: images (N, H, W, 3) and labels (N).

    Raises:
        ValueError: the file is not one of MedMNIST.
    """
    with np.load(path, allow_pickle=False) as arrays:
        return check_arrays(arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel())


def check_arrays(images: NDArray[Any], labels: NDArray[Any]) -> Arrays:
    """Return images and labels after checking that they are RGB images, uint8 (N, H, W, 3), and integers (N).

    Raises:
        ValueError: they are not.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"expected images (N, H, W, 3) of uint8, got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"expected labels (N) that are integers, got {labels.dtype} {labels.shape}")
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels")
    return images, labels.astype(np.int64)
