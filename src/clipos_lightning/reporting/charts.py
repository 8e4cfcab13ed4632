"""Charts of the HTML page as SVG paths: score histograms on a common axis, and ROC curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.metrics import auroc, counts_at_thresholds
from ..types import FloatArray

WIDTH, HEIGHT, BINS = 1000, 40, 80  # of a histogram


@dataclass(frozen=True)
class Axis:
    """The score axis that all histograms share.

    Attributes:
        low: score at the left edge.
        high: score at the right edge.
    """

    low: float
    high: float

    def position(self, score: float) -> float:
        """Position of a score on the axis, from 0 (left) to 1 (right); scores outside are clipped."""
        return float(np.clip((score - self.low) / (self.high - self.low), 0, 1))

    def ticks(self, count: int = 6) -> list[tuple[float, str]]:
        """Ticks at round scores, as (position, label); about ``count`` of them."""
        spacing = (self.high - self.low) / count
        power = 10.0 ** np.floor(np.log10(spacing))
        step = power * next(s for s in (1, 2, 5, 10) if s * power >= spacing * 0.999)
        first, last = int(np.ceil(self.low / step)), int(np.floor(self.high / step))
        return [(self.position(i * step), f"{i * step:g}") for i in range(first, last + 1)]


def common_axis(sets: Sequence[FloatArray]) -> Axis:
    """The axis from the lowest 0.5 % quantile to the highest score of all sets.

    Args:
        sets: the scores of each set, (N,).

    Example:
        >>> common_axis([np.zeros(3), np.array([4.0])])
        Axis(low=0.0, high=4.0)
    """
    low, high = min(np.percentile(s, 0.5) for s in sets), max(s.max() for s in sets)
    return Axis(float(low), float(high if high > low else low + 1))


def histogram_path(scores: FloatArray, axis: Axis) -> str:
    """A histogram as a closed SVG path of WIDTH x HEIGHT, scaled to its highest bin; scores are clipped to the axis."""
    edges = np.linspace(axis.low, axis.high, BINS + 1)
    counts, _ = np.histogram(np.clip(scores, axis.low, axis.high), edges)
    tops = HEIGHT - np.round(counts / max(counts.max(), 1) * (HEIGHT - 2), 1)
    width = WIDTH / BINS
    return f"M0 {HEIGHT}" + "".join(f"V{top:g}h{width:g}" for top in tops) + f"V{HEIGHT}Z"


def roc_points(inside: FloatArray, outside: FloatArray) -> FloatArray:
    """A ROC curve with ID as the positive class, as (OOD accepted, ID accepted) in percent, rounded to 0.2, (K, 2).

    Args:
        inside: ID scores, (N,).
        outside: OOD scores, (M,).

    Example:
        >>> roc_points(np.array([2.0, 3.0]), np.array([1.0, 2.5])).tolist()
        [[0.0, 0.0], [0.0, 50.0], [50.0, 50.0], [50.0, 100.0], [100.0, 100.0]]
    """
    true, false = counts_at_thresholds(inside, outside)
    x, y = np.append(0, false / len(outside)), np.append(0, true / len(inside))
    points = np.round(np.stack([100 * x, 100 * y], 1) * 5) / 5
    return points[np.append(True, (np.diff(points, axis=0) != 0).any(1))]


def precision_recall_points(positive: FloatArray, negative: FloatArray) -> FloatArray:
    """A precision-recall curve as (recall, precision) in percent, rounded to 0.2, (K, 2).

    Args:
        positive: scores of the positive class, (N,).
        negative: scores of the negative class, (M,).

    Example:
        >>> precision_recall_points(np.array([2.0, 3.0]), np.array([1.0, 2.5])).tolist()
        [[0.0, 100.0], [50.0, 100.0], [50.0, 50.0], [100.0, 66.6], [100.0, 50.0]]
    """
    true, false = counts_at_thresholds(positive, negative)
    recall, precision = np.append(0, true / len(positive)), np.append(1, true / (true + false))
    points = np.round(np.stack([100 * recall, 100 * precision], 1) * 5) / 5
    return points[np.append(True, (np.diff(points, axis=0) != 0).any(1))]


def roc_path(inside: FloatArray, outside: FloatArray) -> str:
    """A ROC curve as an SVG path on 100 x 100, with the origin at the lower left."""
    return "M" + "L".join(f"{x:g} {100 - y:g}" for x, y in roc_points(inside, outside))


def roc_panels(curves: Mapping[str, Mapping[str, tuple[FloatArray, FloatArray]]]) -> list[dict[str, Any]]:
    """The ROC panels of the page: ``name`` of the set, and ``curves`` as (detector, SVG path, AUROC in percent).

    Args:
        curves: set to detector to (ID scores, OOD scores).
    """
    return [
        {"name": name, "curves": [(label, roc_path(a, b), auroc(a, b)) for label, (a, b) in detectors.items()]}
        for name, detectors in curves.items()
    ]
