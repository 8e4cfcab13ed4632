"""OOD metrics, exact with ties: pure functions on scores, and torchmetrics classes that hold their state.

Higher score = more in-distribution. With ID as the positive class, as in papers on CLIP-based OOD detection (MCM,
LoCoOp, SCT), FPR95 differs from that with OOD as the positive class, as in OpenOOD and pytorch-ood. Both are computed,
under their own names: ``fpr95`` and ``fpr95_ood_pos``.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ..errors import InputError
from ..types import FloatArray

OOD_METRICS = ("auroc", "fpr95", "fpr95_ood_pos", "aupr_in", "aupr_out")


def counts_at_thresholds(positive: FloatArray, negative: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Counts of positives and of negatives at or above each distinct score, from the highest score down; (K,), (K,).

    Example:
        >>> counts_at_thresholds(np.array([3.0, 2.0]), np.array([2.0, 1.0]))
        (array([1., 2., 2.]), array([0., 1., 2.]))
    """
    values = np.concatenate([positive, negative])
    is_positive = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    true = np.cumsum(is_positive[order])[last]
    return true, last + 1 - true


def auroc(id_scores: FloatArray, ood_scores: FloatArray) -> float:
    """AUROC = P(s_id > s_ood) + P(s_id = s_ood) / 2, in percent, from ranks: exact with ties.

    Args:
        id_scores: (N,).
        ood_scores: (M,).

    Example:
        >>> auroc(np.array([3.0, 2.0]), np.array([2.0, 1.0]))  # (1 + 1 + 1 / 2 + 1) / 4
        87.5
    """
    ood = np.sort(ood_scores)
    wins = np.searchsorted(ood, id_scores, "left").sum() + np.searchsorted(ood, id_scores, "right").sum()
    return float(100 * wins / 2 / (len(id_scores) * len(ood_scores)))


def average_precision(positive: FloatArray, negative: FloatArray) -> float:
    """sum_k (R_k - R_{k-1}) P_k over the distinct thresholds, in percent (scikit-learn's definition).

    Args:
        positive: scores of the positive class, (N,).
        negative: scores of the negative class, (M,).

    Example:
        >>> round(average_precision(np.array([3.0, 2.0]), np.array([2.0, 1.0])), 2)  # 1 / 2 + 1 / 2 * 2 / 3
        83.33
    """
    true, false = counts_at_thresholds(positive, negative)
    recall = np.concatenate([[0.0], true / len(positive)])
    return float(100 * np.sum(np.diff(recall) * true / (true + false)))


def fpr_at_recall(id_scores: FloatArray, ood_scores: FloatArray, recall: float = 0.95) -> float:
    """FPR95: the fraction of OOD accepted where the ID recall is closest to ``recall``, in percent; ID is positive.

    Of two recalls equally close the higher counts; of several thresholds with that recall the lowest (MCM's code).

    Args:
        id_scores: (N,).
        ood_scores: (M,).
        recall: in (0, 1].

    Example:
        >>> fpr_at_recall(np.array([4.0, 3.0, 2.0, 1.0]), np.array([2.5, 0.0]), recall=0.75)  # threshold 2
        50.0
    """
    true, false = counts_at_thresholds(id_scores, ood_scores)
    distance = np.round(np.abs(true / len(id_scores) - recall), 12)
    chosen = np.flatnonzero(distance == distance.min())
    if true[chosen].max() == len(id_scores):  # full recall: the highest threshold that has it
        return float(100 * false[np.flatnonzero(true == len(id_scores))[0]] / len(ood_scores))
    return float(100 * false[chosen[-1]] / len(ood_scores))


def fpr_at_tpr(positive: FloatArray, negative: FloatArray, tpr: float = 0.95) -> float:
    """Fraction of negatives at or above the highest threshold with at least ``tpr`` of the positives, in percent.

    With OOD as the positive class (scores negated) this is OpenOOD's and pytorch-ood's FPR95.

    Args:
        positive: scores of the positive class, (N,).
        negative: scores of the negative class, (M,).
        tpr: in (0, 1].

    Example:
        >>> fpr_at_tpr(np.array([4.0, 3.0, 2.0, 1.0]), np.array([2.5, 0.0]), tpr=0.75)  # threshold 2
        50.0
    """
    true, false = counts_at_thresholds(positive, negative)
    first = np.flatnonzero(true / len(positive) >= tpr)[0]
    return float(100 * false[first] / len(negative))


def ood_metrics(id_scores: FloatArray, ood_scores: FloatArray, what: str = "a score") -> dict[str, float]:
    """All of ``OOD_METRICS`` in percent, for scores where higher = more in-distribution.

    Args:
        id_scores: (N,).
        ood_scores: (M,).
        what: names the scores in the error message.

    Raises:
        ValueError: a set is empty.
        InputError: a score is not finite.

    Example:
        >>> ood_metrics(np.array([3.0, 2.0]), np.array([1.0]))
        {'auroc': 100.0, 'fpr95': 0.0, 'fpr95_ood_pos': 0.0, 'aupr_in': 100.0, 'aupr_out': 100.0}
    """
    id_scores, ood_scores = np.asarray(id_scores, np.float64), np.asarray(ood_scores, np.float64)
    if not len(id_scores) or not len(ood_scores):
        raise ValueError("OOD metrics need at least one ID and one OOD score")
    if not (np.isfinite(id_scores).all() and np.isfinite(ood_scores).all()):
        raise InputError(f"{what} is not finite: training diverged (lower --model.optimizer.lr) or the score is wrong")
    return {
        "auroc": auroc(id_scores, ood_scores),
        "fpr95": fpr_at_recall(id_scores, ood_scores),
        "fpr95_ood_pos": fpr_at_tpr(-ood_scores, -id_scores),
        "aupr_in": average_precision(id_scores, ood_scores),
        "aupr_out": average_precision(-ood_scores, -id_scores),
    }


class OODMetrics(Metric):
    """``ood_metrics`` of one score as a torchmetrics.Metric; its state, all scores, is gathered over processes.

    Example:
        >>> from clipos_lightning import OODMetrics
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

    def update(self, scores: Float[Tensor, " batch"], is_id: Bool[Tensor, " batch"]) -> None:
        """Add scores of a batch, (N,), and whether each image is in-distribution, bool (N,)."""
        self.id_scores.append(scores[is_id].float())
        self.ood_scores.append(scores[~is_id].float())

    def compute(self) -> dict[str, float]:
        """``ood_metrics`` of all scores so far, in percent.

        Raises:
            ValueError: no ID or no OOD score was added.
            InputError: a score is not finite.
        """
        return ood_metrics(joined(self.id_scores), joined(self.ood_scores))


class RowBuffer(Metric):
    """A table of N rows and K columns, filled batch by batch and gathered over processes; rows are sorted by index.

    Args:
        columns: K.

    Example:
        >>> table = RowBuffer(columns=1)
        >>> table.update(torch.tensor([1, 0]), torch.tensor([[10.0], [20.0]]))
        >>> table.compute().tolist()
        [[20.0], [10.0]]
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, index: Num[Tensor, " batch"], values: Num[Tensor, "batch columns"]) -> None:
        """Add the rows (B, K) of the items with these indices (B,)."""
        self.rows.append(torch.cat([index[:, None].float(), values.float()], 1))  # indices are exact up to 2^24

    def compute(self) -> NDArray[np.float64]:
        """All rows in the order of their indices, (N, K)."""
        table = joined(self.rows).reshape(-1, self.columns + 1)
        return table[np.argsort(table[:, 0], kind="stable"), 1:]


def joined(state: list[Tensor] | Tensor) -> NDArray[np.float64]:
    """A list state as one array, before or after torchmetrics has gathered it.

    Example:
        >>> joined([torch.tensor([1.0]), torch.tensor([2.0])])
        array([1., 2.])
    """
    parts = state if isinstance(state, list) else [state]
    return torch.cat([p.detach().cpu() for p in parts]).numpy().astype(np.float64) if parts else np.empty(0)


def mask_iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two (g, g) masks, in [0, 1]; ``truth`` is not empty.

    Example:
        >>> mask_iou(np.array([[True, False]]), np.array([[True, True]]))
        0.5
    """
    return float((mask & truth).sum() / (mask | truth).sum())


def boundary_f(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """F-measure of the boundaries of two (g, g) masks with one patch of tolerance, in [0, 1] (Martin et al. 2004).

    Example:
        >>> boundary_f(np.eye(3, dtype=bool), np.eye(3, dtype=bool))
        1.0
    """
    a, b = boundary(mask), boundary(truth)
    precision = (a & dilate(b)).sum() / max(a.sum(), 1)
    recall = (b & dilate(a)).sum() / max(b.sum(), 1)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Patches of a mask that touch a patch outside it (8 neighbours; beyond the image counts as outside), (g, g).

    Example:
        >>> boundary(np.ones((3, 3), dtype=bool)).astype(int)
        array([[1, 1, 1],
               [1, 0, 1],
               [1, 1, 1]])
    """
    return mask & dilate(np.pad(~mask, 1, constant_values=True))[1:-1, 1:-1]


def dilate(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask grown by one patch in all 8 directions, (g, g).

    Example:
        >>> dilate(np.array([[True, False, False]]))
        array([[ True,  True, False]])
    """
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.logical_or.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])
