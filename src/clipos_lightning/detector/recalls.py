"""Thresholds of a calibrated detector at other recalls than its own, from its calibration record."""

import shlex
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..options.schema import Fraction, find_problem
from .detector import Detector


@dataclass(frozen=True)
class Recalls:
    """Recalls that a calibration can give, with their thresholds.

    Attributes:
        recalls: ascending, in (0, 1), at least two.
        thresholds: an image is accepted at a recall if its score is at least this; they never increase.
        start: the recall that the detector's own threshold was set for.

    Example:
        >>> recalls = Recalls((0.5, 0.9, 0.95), (3.0, 2.0, 1.0), 0.9)
        >>> recalls.at(0.9), recalls.at(0.91), recalls.at(0.99), recalls.lowest(2.5), recalls.lowest(0.5)
        ((0.9, 2.0), (0.95, 1.0), (0.95, 1.0), 0.9, None)
    """

    recalls: tuple[float, ...]
    thresholds: tuple[float, ...]
    start: float

    def at(self, recall: float) -> tuple[float, float]:
        """The lowest recall of the table that is at least this one, or the highest of all, and its threshold."""
        index = min(bisect_left(self.recalls, recall), len(self.recalls) - 1)
        return self.recalls[index], self.thresholds[index]

    def lowest(self, score: float) -> float | None:
        """The lowest recall at which an image with this score is accepted; None: at none of the table."""
        pairs = zip(self.recalls, self.thresholds, strict=True)
        return next((recall for recall, threshold in pairs if score >= threshold), None)


def recalls_of(detector: Detector) -> Recalls | None:
    """The recalls in a detector's calibration record; None if it has none, or if they do not fit its threshold."""
    table: Any = detector.calibration.get("by_recall")
    requested = detector.calibration.get("recall")
    if detector.threshold is None or detector.class_thresholds is not None or not is_recall_table(table):
        return None
    if find_problem(requested, Fraction) is not None:
        return None
    recalls, thresholds = (tuple(row[k] for row in table) for k in range(2))
    found = Recalls(recalls, thresholds, min(requested, recalls[-1]))
    return found if found.at(found.start) == (found.start, detector.threshold) else None


def is_recall_table(table: Any) -> bool:
    """Whether this is a table as :func:`~..evaluation.calibration.recall_table` gives it, of at least two recalls.

    Example:
        >>> is_recall_table([[0.5, 3.0], [0.9, 2.0]]), is_recall_table([[0.9, 2.0], [0.5, 3.0]]), is_recall_table(None)
        (True, False, False)
    """
    if find_problem(table, list[tuple[float, float]]) is not None or len(table) < 2:
        return False
    return 0 < table[0][0] and table[-1][0] < 1 and all(a[0] < b[0] and a[1] >= b[1] for a, b in pairwise(table))


def why_no_recalls(detector: Detector, file: str) -> Sequence[str]:
    """Why a detector has no recalls to choose from, and the command that gives it some.

    Args:
        detector: for which :func:`recalls_of` is None.
        file: of the detector, or its name on the hub.
    """
    source = detector.calibration.get("source")
    if detector.class_thresholds is not None:
        reason = "it has a threshold for each class, set with --per_class"
    elif detector.threshold is None:
        reason = "it has no threshold, so every image gets a class"
    elif source in ("strangers", "threshold"):
        reason = f"its threshold was set with --{source}, not for a recall"
    elif "by_recall" in detector.calibration:
        reason = "its calibration has too few images, or its threshold was changed afterwards"
    else:
        reason = "its file holds one threshold only, as earlier versions wrote it"
    return reason, f"clipos calibrate {shlex.quote(file)} IMAGES --out calibrated.safetensors"
