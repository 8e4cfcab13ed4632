"""The page's charts as SVG paths: score histograms on one common axis, ROC curves. Arrays to short strings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.metrics import auroc, counts_at_thresholds
from ..types import FloatArray

WIDTH, HEIGHT, BINS = 1000, 40, 80  # of a strip


@dataclass(frozen=True)
class Axis:
    """The common axis of the strips.

    Attributes:
        low: score at the left edge.
        high: score at the right edge.
    """

    low: float
    high: float

    def share(self, score: float) -> float:
        """Where a score lies, 0 (left edge) to 1; scores beyond the edges lie on them."""
        return float(np.clip((score - self.low) / (self.high - self.low), 0, 1))

    def ticks(self, count: int = 6) -> list[tuple[float, str]]:
        """Round scores inside the axis, as (share, label)."""
        rough = (self.high - self.low) / count
        power = 10.0 ** np.floor(np.log10(rough))
        step = power * next(s for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
        first, last = int(np.ceil(self.low / step)), int(np.floor(self.high / step))
        return [(self.share(i * step), f"{i * step:g}") for i in range(first, last + 1)]


def common_axis(sets: Sequence[FloatArray]) -> Axis:
    """From the lowest 0.5 % to the highest score of any set, all sets together."""
    low, high = min(np.percentile(s, 0.5) for s in sets), max(s.max() for s in sets)
    return Axis(float(low), float(high if high > low else low + 1))


def histogram_path(scores: FloatArray, axis: Axis) -> str:
    """A histogram as a closed SVG path, WIDTH x HEIGHT, scaled to its highest bin; outliers lie in the edge bins."""
    edges = np.linspace(axis.low, axis.high, BINS + 1)
    counts, _ = np.histogram(np.clip(scores, axis.low, axis.high), edges)
    tops = HEIGHT - np.round(counts / max(counts.max(), 1) * (HEIGHT - 2), 1)
    width = WIDTH / BINS
    return f"M0 {HEIGHT}" + "".join(f"V{top:g}h{width:g}" for top in tops) + f"V{HEIGHT}Z"


def roc_points(inside: FloatArray, outside: FloatArray) -> FloatArray:
    """A ROC curve, ID positive, as (OOD accepted, ID accepted) in percent, (M, 2); steps below 0.2 points are merged.

    Example:
        >>> roc_points(np.array([2.0, 3.0]), np.array([1.0, 2.5])).tolist()
        [[0.0, 0.0], [0.0, 50.0], [50.0, 50.0], [50.0, 100.0], [100.0, 100.0]]
    """
    true, false = counts_at_thresholds(inside, outside)
    x, y = np.append(0, false / len(outside)), np.append(0, true / len(inside))
    points = np.round(np.stack([100 * x, 100 * y], 1) * 5) / 5
    return points[np.append(True, (np.diff(points, axis=0) != 0).any(1))]


def roc_path(inside: FloatArray, outside: FloatArray) -> str:
    """The ROC curve as an SVG path on 100 x 100 with the origin at the lower left."""
    return "M" + "L".join(f"{x:g} {100 - y:g}" for x, y in roc_points(inside, outside))


def roc_panels(curves: Mapping[str, Mapping[str, tuple[FloatArray, FloatArray]]]) -> list[dict[str, Any]]:
    """Set -> detector -> (ID scores, OOD scores) as panels: name, and (detector, path, AUROC) for each curve."""
    return [
        {"name": name, "curves": [(label, roc_path(a, b), auroc(a, b)) for label, (a, b) in detectors.items()]}
        for name, detectors in curves.items()
    ]
