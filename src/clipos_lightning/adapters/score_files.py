"""Read and write one score of a test's ``scores.npz``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from ..errors import InputError
from ..utils.array_files import load_arrays
from ..utils.files import atomic_write

ID_SET = "id"  # name of the ID set
OOD_LABEL = -1  # label of each OOD image, in OpenOOD and pytorch-ood
GIVE_SCORES = "give a file of scores"


@dataclass
class ScoredSet:
    """One score of the images of a test set, in their order.

    Attributes:
        predicted: index of the most probable class, (N,).
        score: higher = more in-distribution, (N,).
        labels: true class, -1 for OOD, (N,).
    """

    predicted: Int[np.ndarray, " images"]
    score: Float[np.ndarray, " images"]
    labels: Int[np.ndarray, " images"]

    def __post_init__(self) -> None:
        """Check that there is one number per image.

        Raises:
            InputError: the shapes differ.
        """
        shapes = {self.predicted.shape, self.score.shape, self.labels.shape}
        if len(shapes) > 1 or self.score.ndim != 1:
            found = f"{self.predicted.shape}, {self.score.shape} and {self.labels.shape}"
            raise InputError(f"predictions, scores and labels of a set have the shapes {found}: one number per image")


ScoredSets = Mapping[str, ScoredSet]  # test set to its scores; the ID set is called "id"


def read_test_scores(path: str | Path, score: str, detector: str = "") -> dict[str, ScoredSet]:
    """Read one score of a test's ``scores.npz``; the ID set comes first.

    Args:
        path: of the file.
        score: its name, such as ``energy``.
        detector: ``""``: the tested one; ``zero_shot``, or with an image weight ``text`` and ``images``.

    Raises:
        InputError: the file cannot be read, or has no such score.
    """
    arrays = load_arrays(Path(path), cure=GIVE_SCORES)
    prefix = [detector] if detector else []
    keys = [key.split("/") for key in arrays]
    own = [key[-2:] for key in keys if key[:-2] == prefix and len(key) == len(prefix) + 2]
    names = [name for name, column in own if column == score]
    if ID_SET not in names:
        given = sorted({column for _, column in own} - {"paths", "labels", "predicted"})
        has = f"it has {', '.join(given)}" if given else "it is not the scores.npz of such a test"
        raise InputError(f"{path} has no score {score!r} of {detector or 'the tested detector'}: {has}")
    sets = {}
    for name in sorted(names, key=lambda name: (name != ID_SET, name)):
        predicted, values = (arrays["/".join([*prefix, name, column])] for column in ("predicted", score))
        labels = arrays["id/labels"] if name == ID_SET else np.full(len(values), OOD_LABEL)
        sets[name] = ScoredSet(predicted, values, labels.astype(np.int64))
    return sets


def write_test_scores(path: str | Path, score: str, sets: ScoredSets) -> None:
    """Write sets as the ``scores.npz`` of a test, with one score and without ``paths``.

    Raises:
        InputError: the file exists.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, scored in sets.items():
        arrays |= {f"{name}/labels": scored.labels} if name == ID_SET else {}
        arrays |= {f"{name}/predicted": scored.predicted, f"{name}/{score}": scored.score}
    write_new({Path(path): arrays})


def write_new(files: Mapping[Path, Mapping[str, Any]]) -> None:
    """Write new ``npz`` files.

    Raises:
        InputError: one exists; none is written then.
    """
    if existing := [path for path in files if path.exists()]:
        raise InputError(f"{existing[0]} exists: give another name, or remove the file")
    for path, arrays in files.items():
        with atomic_write(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)
