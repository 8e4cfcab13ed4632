"""Operating points: what a threshold on a score accepts, counted exactly. Pure functions.

One convention everywhere: an image is accepted if its score >= the threshold, and is "unknown" otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..types import CountArray, FloatArray
from .results import Results

RECALL = 0.95
MATRIX_LIMIT = 20  # the largest number of classes whose full confusion matrix is readable


def threshold_at_recall(id_scores: FloatArray, recall: float = RECALL) -> float:
    """The highest threshold that accepts at least ``recall`` of the ID scores; it is one of the scores.

    All scores tied with the threshold are accepted, so the recall may be higher. (FPR95 follows MCM's rule instead, the
    recall *closest* to 95 % and the lowest threshold that has it, so it may accept a few more OOD images.)

    Args:
        id_scores: finite, (N,).
        recall: in (0, 1].

    Raises:
        ValueError: no scores, a score that is not finite, or a recall outside (0, 1].

    Example:
        >>> scores = np.arange(1.0, 21.0)  # 1 … 20
        >>> threshold_at_recall(scores, 0.95), threshold_at_recall(scores, 0.94), threshold_at_recall(scores, 1)
        (2.0, 2.0, 1.0)
    """
    if not len(id_scores) or not np.isfinite(id_scores).all():
        raise ValueError("a threshold needs at least one ID score, and only finite ones")
    if not 0 < recall <= 1:
        raise ValueError(f"the recall of a threshold is in (0, 1], not {recall}")
    return float(thresholds_at_recalls(id_scores, recall))


def thresholds_at_recalls(scores: FloatArray, recalls: Any) -> Any:
    """For each recall the highest threshold that accepts at least this fraction of the scores."""
    reached = np.arange(1, len(scores) + 1) / len(scores)  # recall of the highest score, the two highest, …
    return np.sort(scores)[::-1][np.searchsorted(reached, recalls)]


def threshold_grid(id_scores: FloatArray, ood_scores: FloatArray) -> FloatArray:
    """Thresholds of every whole percent of ID and of OOD images accepted, ascending; at most 200.

    Example:
        >>> threshold_grid(np.array([1.0, 2.0]), np.array([0.0]))
        array([0., 1., 2.])
    """
    percents = np.arange(1, 101) / 100
    return np.unique([thresholds_at_recalls(scores, percents) for scores in (id_scores, ood_scores) if len(scores)])


def count_accepted(scores: FloatArray, cells: CountArray, size: int, thresholds: FloatArray) -> CountArray:
    """Images accepted at each of K ascending thresholds in each of ``size`` cells, (K, size).

    Args:
        scores: (N,).
        cells: the cell of each image, in [0, size), (N,).
        size: number of cells.
        thresholds: (K,), ascending.

    Example:
        >>> count_accepted(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), 2, np.array([1.0, 2.0, 2.5]))
        array([[2, 1],
               [1, 1],
               [0, 1]])
    """
    passed = np.searchsorted(thresholds, scores, "right")  # number of thresholds that accept the image
    counts = np.bincount(passed * size + cells, minlength=(len(thresholds) + 1) * size).reshape(-1, size)
    return np.cumsum(counts[::-1], 0)[::-1][1:]


@dataclass(frozen=True)
class Confusion:
    """Confusion counts at every threshold of a grid.

    Attributes:
        score: name of the thresholded score.
        thresholds: (K,), ascending.
        default: index of the threshold at 95 % ID recall.
        rows: R names: the C true classes, then the OOD sets.
        matrix: True: one column per predicted class; False: the columns are "right class" and "another class".
        columns: M names.
        right: column of each true class's correct prediction, (C,).
        totals: images in each row, (R,).
        accepted: accepted images by row and column, (K, R, M).
        most_confused: each row's most frequent wrong class, at any score, "" if there is none; R names.
    """

    score: str
    thresholds: FloatArray
    default: int
    rows: list[str]
    matrix: bool
    columns: list[str]
    right: CountArray
    totals: CountArray
    accepted: CountArray
    most_confused: list[str]

    @property
    def unknown(self) -> CountArray:
        """Images below each threshold, by row, (K, R)."""
        return self.totals - self.accepted.sum(-1)

    def index_at_recall(self, recall: float) -> int:
        """Index of the highest threshold with at least this ID recall."""
        ids = self.accepted[:, : len(self.right)].sum((1, 2))
        return int(np.flatnonzero(ids / self.totals[: len(self.right)].sum() >= recall)[-1])


def confusion(results: Results, labels: CountArray, class_names: Sequence[str], score: str) -> Confusion:
    """True classes and OOD sets against predicted classes and "unknown", at every threshold of the grid.

    Args:
        results: test set to column to values; the ID test set is called ``id``.
        labels: true classes of the ID test set, (N,).
        class_names: C names.
        score: name of the thresholded score.

    Example:
        >>> ids = {"s": np.array([2.0, 1.0]), "predicted": np.array([0, 1])}
        >>> ood = {"s": np.array([1.0, 0.0]), "predicted": np.array([0, 0])}
        >>> table = confusion({"id": ids, "noise": ood}, np.array([0, 1]), ["cat", "dog"], "s")
        >>> table.rows, table.thresholds, table.accepted[table.default].tolist()
        (['cat', 'dog', 'noise'], array([0., 1., 2.]), [[1, 0], [0, 1], [1, 0]])
    """
    classes, ood_names = len(class_names), [name for name in results if name != "id"]
    sets = [results["id"], *(results[name] for name in ood_names)]
    row = np.concatenate([labels, *(np.full(len(results[n][score]), classes + i) for i, n in enumerate(ood_names))])
    values = np.concatenate([table[score] for table in sets])
    predicted = np.concatenate([table["predicted"] for table in sets]).astype(np.int64)
    thresholds = threshold_grid(values[: len(labels)], values[len(labels) :])
    matrix = classes <= MATRIX_LIMIT
    columns = list(class_names) if matrix else ["right class", "another class"]
    column = predicted if matrix else (predicted != row).astype(np.int64)
    rows, size = [*class_names, *ood_names], (classes + len(ood_names)) * len(columns)
    accepted = count_accepted(values, row * len(columns) + column, size, thresholds)
    return Confusion(
        score=score,
        thresholds=thresholds,
        default=int(np.searchsorted(thresholds, threshold_at_recall(values[: len(labels)]))),
        rows=rows,
        matrix=matrix,
        columns=columns,
        right=np.arange(classes) * matrix,
        totals=np.bincount(row, minlength=len(rows)),
        accepted=accepted.reshape(len(thresholds), len(rows), len(columns)),
        most_confused=most_confused(row, predicted, len(rows), class_names),
    )


def most_confused(row: CountArray, predicted: CountArray, rows: int, class_names: Sequence[str]) -> list[str]:
    """For each row, the class other than its own that most of its images are predicted as; "" if there is none.

    Args:
        row: of each image, (N,).
        predicted: class of each image, (N,).
        rows: R; the first C rows are the classes.
        class_names: C names.
    """
    names = []
    order = np.argsort(row, kind="stable")
    for r, images in enumerate(np.split(order, np.cumsum(np.bincount(row, minlength=rows))[:-1])):
        counts = np.bincount(predicted[images], minlength=len(class_names))
        counts[r : r + 1] = 0
        names.append(class_names[int(counts.argmax())] if counts.any() else "")
    return names


def operating_point(results: Results, labels: CountArray, score: str, recall: float = RECALL) -> dict[str, Any]:
    """The threshold at an ID recall and what it accepts, in percent: plain data for report.json.

    Args:
        results: test set to column to values; the ID test set is called ``id``.
        labels: true classes of the ID test set, (N,).
        score: name of the thresholded score.
        recall: in (0, 1].

    Example:
        >>> ids = {"s": np.array([2.0, 1.0]), "predicted": np.array([0, 1])}
        >>> ood = {"s": np.array([1.0, 0.0]), "predicted": np.array([0, 0])}
        >>> point = operating_point({"id": ids, "noise": ood}, np.array([0, 0]), "s")
        >>> point["threshold"], point["id_accepted"], point["id_accepted_right"], point["ood_accepted"]
        (1.0, 100.0, 50.0, {'noise': 50.0})
    """
    ids = results["id"]
    threshold = threshold_at_recall(ids[score], recall)
    accepted, correct = ids[score] >= threshold, ids["predicted"] == labels
    return {
        "score": score,
        "threshold": threshold,
        "id_accepted": 100 * float(accepted.mean()),
        "id_accepted_right": 100 * float((accepted & correct).mean()),
        "ood_accepted": {n: 100 * float((t[score] >= threshold).mean()) for n, t in results.items() if n != "id"},
    }
