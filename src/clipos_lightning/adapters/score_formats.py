"""Scores of a test in the formats of OpenOOD's and pytorch-ood's evaluators, and back."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..types import Labels
from ..utils.array_files import load_arrays
from ..utils.files import make_folder
from .score_files import GIVE_SCORES, ID_SET, OOD_LABEL, ScoredSet, ScoredSets, write_new

OPENOOD_ARRAYS = ("pred", "conf", "label")


def read_openood(folder: str | Path, id_name: str = ID_SET) -> dict[str, ScoredSet]:
    """Read the files ``<set>.npz`` that OpenOOD's evaluator saves: ``pred``, ``conf`` and ``label``.

    Args:
        folder: with the files of the ID test set and of the OOD sets.
        id_name: of the ID set's file; the set is called ``id`` here. All images of the others count as OOD.

    Raises:
        InputError: a file cannot be read or lacks an array, or there is none of the ID set.
    """
    files = sorted(Path(folder).glob("*.npz"), key=lambda path: (path.stem != id_name, path.name))
    if not files or files[0].stem != id_name:
        raise InputError(f"{folder} has no {id_name}.npz: give the name of the ID set's file as id_name")
    sets = {}
    for path in files:
        predicted, confidence, labels = load_arrays(path, *OPENOOD_ARRAYS, cure=GIVE_SCORES).values()
        truth = labels if path.stem == id_name else np.full_like(labels, OOD_LABEL)
        name = ID_SET if path.stem == id_name else path.stem
        sets[name] = ScoredSet(predicted, confidence, truth)
    return sets


def write_openood(folder: str | Path, sets: ScoredSets) -> None:
    """Write ``<set>.npz`` for each set, with ``pred``, ``conf`` and ``label`` as OpenOOD's evaluator saves them.

    Raises:
        InputError: one of the files exists; none is written then.
    """
    make_folder(Path(folder))
    rows = {name: (scored.predicted, scored.score, scored.labels) for name, scored in sets.items()}
    write_new({Path(folder) / f"{n}.npz": dict(zip(OPENOOD_ARRAYS, row, strict=True)) for n, row in rows.items()})


def to_pytorch_ood(sets: ScoredSets, name: str) -> tuple[Float[Tensor, " images"], Labels, Labels]:
    """Outlier scores (higher = more OOD), labels and predictions of the ID set and an OOD set, each (N + M,).

    Args:
        sets: the test sets.
        name: of the OOD set.

    Raises:
        InputError: there is no such set.

    Example:
        >>> one, two = np.array([0]), np.array([1, 0])
        >>> sets = {"id": ScoredSet(two, np.array([3.0, 2.0]), two), "noise": ScoredSet(one, np.array([1.0]), one - 1)}
        >>> [column.tolist() for column in to_pytorch_ood(sets, "noise")]  # for OODMetrics().update(*…)
        [[-3.0, -2.0, -1.0], [1, 0, -1], [1, 0, 0]]
    """
    if not {ID_SET, name} <= set(sets):
        raise InputError(f"no set {ID_SET!r} and {name!r} in the scores: they have {', '.join(sets)}")
    score, labels, predicted = (
        torch.from_numpy(np.concatenate([getattr(sets[part], column) for part in (ID_SET, name)]))
        for column in ("score", "labels", "predicted")
    )
    return -score, labels, predicted


def from_pytorch_ood(
    name: str, scores: Float[Tensor, " images"], labels: Labels, predicted: Labels
) -> dict[str, ScoredSet]:
    """The ID set and an OOD set from what pytorch-ood's metrics take.

    Args:
        name: of the OOD set.
        scores: outlier scores, higher = more OOD, (N + M,).
        labels: true classes, negative = OOD, (N + M,).
        predicted: predicted classes, (N + M,).
    """
    whole = ScoredSet(*(column.detach().cpu().numpy() for column in (predicted, -scores, labels)))
    known = whole.labels >= 0
    ood = ScoredSet(whole.predicted[~known], whole.score[~known], np.full_like(whole.labels[~known], OOD_LABEL))
    return {ID_SET: ScoredSet(whole.predicted[known], whole.score[known], whole.labels[known]), name: ood}
