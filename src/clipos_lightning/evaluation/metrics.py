"""OOD metrics, exact and ties-aware: pure functions on scores, and a torchmetrics.Metric that holds the state.

Higher score = more in-distribution. "ID positive" is the CLIP-OOD line's convention (MCM, LoCoOp, SCT); "OOD positive"
is OpenOOD's and pytorch-ood's: the same scores give another FPR95, so both are there under their own names.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ..errors import InputError
from ..types import FloatArray

OOD_METRICS = ("auroc", "fpr95", "fpr95_ood_pos", "aupr_in", "aupr_out")


def counts_at_thresholds(positive: FloatArray, negative: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Counts of positives and negatives at or above each distinct score, from the highest down; (K,), (K,)."""
    values = np.concatenate([positive, negative])
    is_positive = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    true = np.cumsum(is_positive[order])[last]
    return true, last + 1 - true


def auroc(id_scores: FloatArray, ood_scores: FloatArray) -> float:
    """P(s_id > s_ood) + P(s_id = s_ood) / 2, in percent, from ranks: exact with ties.

    Example:
        >>> auroc(np.array([3.0, 2.0]), np.array([2.0, 1.0]))
        87.5
    """
    ood = np.sort(ood_scores)
    wins = np.searchsorted(ood, id_scores, "left").sum() + np.searchsorted(ood, id_scores, "right").sum()
    return float(100 * wins / 2 / (len(id_scores) * len(ood_scores)))


def average_precision(positive: FloatArray, negative: FloatArray) -> float:
    """sum_k (R_k - R_{k-1}) P_k over the distinct thresholds, in percent (scikit-learn's definition)."""
    true, false = counts_at_thresholds(positive, negative)
    recall = np.concatenate([[0.0], true / len(positive)])
    return float(100 * np.sum(np.diff(recall) * true / (true + false)))


def fpr_at_recall(id_scores: FloatArray, ood_scores: FloatArray, recall: float = 0.95) -> float:
    """Share of OOD accepted where the ID recall is closest to ``recall``, ID positive, in percent.

    Two recalls equally close: the higher; several thresholds with that recall: the lowest, as in MCM's code.
    """
    true, false = counts_at_thresholds(id_scores, ood_scores)
    distance = np.round(np.abs(true / len(id_scores) - recall), 12)
    chosen = np.flatnonzero(distance == distance.min())
    if true[chosen].max() == len(id_scores):  # full recall: at the first threshold that has it
        return float(100 * false[np.flatnonzero(true == len(id_scores))[0]] / len(ood_scores))
    return float(100 * false[chosen[-1]] / len(ood_scores))


def fpr_at_tpr(positive: FloatArray, negative: FloatArray, tpr: float = 0.95) -> float:
    """Share of negatives at or above the highest threshold with at least ``tpr`` of the positives, in percent."""
    true, false = counts_at_thresholds(positive, negative)
    first = np.flatnonzero(true / len(positive) >= tpr)[0]
    return float(100 * false[first] / len(negative))


def ood_metrics(id_scores: FloatArray, ood_scores: FloatArray, what: str = "a score") -> dict[str, float]:
    """All of ``OOD_METRICS`` in percent, for scores where higher = more in-distribution.

    Raises:
        ValueError: a set is empty.
        InputError: a score is not finite; ``what`` names it.
    """
    id_scores, ood_scores = np.asarray(id_scores, np.float64), np.asarray(ood_scores, np.float64)
    if not len(id_scores) or not len(ood_scores):
        raise ValueError("OOD metrics need at least one ID and one OOD score")
    if not (np.isfinite(id_scores).all() and np.isfinite(ood_scores).all()):
        raise InputError(f"{what} is not finite: training diverged (lower the rate), or the score itself is wrong")
    return {
        "auroc": auroc(id_scores, ood_scores),
        "fpr95": fpr_at_recall(id_scores, ood_scores),
        "fpr95_ood_pos": fpr_at_tpr(-ood_scores, -id_scores),
        "aupr_in": average_precision(id_scores, ood_scores),
        "aupr_out": average_precision(-ood_scores, -id_scores),
    }


class OODMetrics(Metric):
    """AUROC, FPR95, AUPR of one score; state: the scores of both sides, gathered over processes.

    Example:
        >>> metric = OODMetrics()
        >>> metric.update(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, True, False]))
        >>> metric.compute()["auroc"]
        100.0
    """

    full_state_update = False
    id_scores: list[Tensor]
    ood_scores: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("id_scores", default=[], dist_reduce_fx="cat")
        self.add_state("ood_scores", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, is_id: Tensor) -> None:
        """Add scores (N,) with ``is_id`` (N,) bool: in-distribution or not."""
        self.id_scores.append(scores[is_id].float())
        self.ood_scores.append(scores[~is_id].float())

    def compute(self) -> dict[str, float]:
        """``ood_metrics`` of all that was added."""
        inside, outside = (joined(state) for state in (self.id_scores, self.ood_scores))
        return ood_metrics(inside, outside)


class RowBuffer(Metric):
    """A table that grows batch by batch, (N, K) with a row's index first, gathered over processes without repeats."""

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, values: Tensor) -> None:
        """Add the rows (B, K) of the items with these indices (B,)."""
        self.rows.append(torch.cat([index[:, None].float(), values.float()], 1))  # indices are exact up to 2^24

    def compute(self) -> NDArray[np.float64]:
        """Values (N, K) in the order of the indices."""
        table = joined(self.rows).reshape(-1, self.columns + 1)
        return table[np.argsort(table[:, 0], kind="stable"), 1:]


def joined(state: list[Tensor] | Tensor) -> NDArray[np.float64]:
    """A list state before or after torchmetrics' gathering, as one array."""
    parts = state if isinstance(state, list) else [state]
    return torch.cat([p.detach().cpu() for p in parts]).numpy().astype(np.float64) if parts else np.empty(0)


def mask_iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """|mask and truth| / |mask or truth| of two (g, g) masks; truth is not empty."""
    return float((mask & truth).sum() / (mask | truth).sum())


def boundary_f(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """F-measure of the boundaries with one patch of tolerance (Martin et al. 2004), on (g, g) masks."""
    a, b = boundary(mask), boundary(truth)
    precision = (a & dilate(b)).sum() / max(a.sum(), 1)
    recall = (b & dilate(a)).sum() / max(b.sum(), 1)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Patches of the mask that touch a patch outside it (8 neighbours; beyond the image is outside)."""
    return mask & dilate(np.pad(~mask, 1, constant_values=True))[1:-1, 1:-1]


def dilate(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask grown by one patch in all 8 directions."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.logical_or.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])
