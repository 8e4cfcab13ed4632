"""A threshold that guarantees an ID recall, and a temperature for the class probabilities. Pure functions.

The threshold is that of split conformal prediction (Vovk et al. 2005; Papadopoulos et al. 2002): one of the calibration
scores, chosen such that a new ID image, exchangeable with them, is accepted with at least the requested probability.
Temperature scaling follows Guo et al. 2017, arXiv:1706.04599.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import betaincinv
from torch import Tensor

from ..types import Labels
from .thresholds import threshold_at_recall

T_RANGE = (0.05, 20.0)  # search range of the temperature
RECALL_STEPS = tuple(percent / 100 for percent in range(50, 100))  # whose thresholds a calibration keeps


def conformal_rank(n: int, recall: float) -> int:
    """k = floor((n + 1) (1 - recall)): the k-th smallest of n scores guarantees the recall; 0: n is too small.

    Args:
        n: number of calibration scores.
        recall: requested, in (0, 1).

    Example:
        >>> conformal_rank(500, 0.95), conformal_rank(19, 0.95), conformal_rank(18, 0.95), conformal_rank(9, 0.9)
        (25, 1, 0, 1)
    """
    return math.floor((n + 1) * (1 - recall) + 1e-9)  # 10 * (1 - 0.9) is 0.9999...


def smallest_n(recall: float) -> int:
    """The smallest number of calibration images that can guarantee the recall.

    Example:
        >>> smallest_n(0.95), smallest_n(0.9), smallest_n(0.99)
        (19, 9, 99)
    """
    return math.ceil(1 / (1 - recall) - 1e-9) - 1


@dataclass(frozen=True)
class ConformalPoint:
    """A conformal threshold and its recall.

    Attributes:
        threshold: an image is accepted if its score is at least this.
        n: number of calibration scores.
        rank: the threshold is the rank-th smallest of them.
        achieved: fraction of the calibration scores that it accepts.
        guaranteed: lower bound of the probability to accept a new exchangeable ID image, 1 - rank / (n + 1).
        likely: 5 % and 95 % quantiles, over calibration sets, of the recall on new ID images.
    """

    threshold: float
    n: int
    rank: int
    achieved: float
    guaranteed: float
    likely: tuple[float, float]


def conformal_point(scores: NDArray[np.float64], recall: float) -> ConformalPoint:
    """The conformal threshold for a requested recall; the smallest score if n is too small to guarantee it.

    Args:
        scores: of ID images, finite, at least one, (n,).
        recall: requested, in (0, 1).

    Example:
        >>> point = conformal_point(np.arange(500.0), 0.95)
        >>> point.threshold, point.rank, point.achieved, round(point.guaranteed, 4)
        (24.0, 25, 0.952, 0.9501)
    """
    n = len(scores)
    rank = max(1, conformal_rank(n, recall))
    threshold = threshold_at_recall(scores, (n - rank + 1) / n)  # the rank-th smallest
    achieved = float(np.mean(scores >= threshold))
    return ConformalPoint(threshold, n, rank, achieved, 1 - rank / (n + 1), likely_recall(n, rank))


def recall_table(scores: NDArray[np.float64], recall: float) -> list[list[float]]:
    """The conformal threshold of every whole percent of recall from 50 to 99, and of the requested recall.

    Recalls that n scores are too few to guarantee are left out.

    Args:
        scores: of ID images, finite, at least one, (n,).
        recall: requested, in (0, 1).

    Returns:
        ``[recall, threshold]``, the lowest recall first; thresholds never increase.

    Example:
        >>> recall_table(np.arange(500.0), 0.95)[-5:]
        [[0.95, 24.0], [0.96, 19.0], [0.97, 14.0], [0.98, 9.0], [0.99, 4.0]]
    """
    steps = sorted({*RECALL_STEPS, recall})
    return [[step, conformal_point(scores, step).threshold] for step in steps if conformal_rank(len(scores), step)]


def likely_recall(n: int, rank: int) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of the recall on new ID images if the rank-th smallest of n scores is the threshold.

    Without ties the recall is distributed as Beta(n + 1 - rank, rank).

    Example:
        >>> [round(recall, 6) for recall in likely_recall(1, 1)]  # uniform
        [0.05, 0.95]
    """
    low, high = betaincinv(n + 1 - rank, rank, [0.05, 0.95]).tolist()
    return low, high


@dataclass(frozen=True)
class StrangerPoint:
    """A threshold that accepts few images of other classes.

    Attributes:
        threshold: an image is accepted if its score is at least this.
        n: number of images of other classes.
        rank: the threshold is just above the rank-th largest of their scores.
        accepted: fraction of them that it accepts.
        guaranteed: upper bound of the probability to accept a new one exchangeable with them, rank / (n + 1).
    """

    threshold: float
    n: int
    rank: int
    accepted: float
    guaranteed: float


def stranger_point(scores: NDArray[np.float64], accept: float) -> StrangerPoint:
    """The lowest conformal threshold that accepts at most a given fraction of images of other classes.

    A new image exchangeable with the n given ones scores above their k-th largest score with a probability of at most
    k / (n + 1); k = floor((n + 1) accept). If n is too small for that, the threshold is just above the largest score.

    Args:
        scores: of images of other classes, finite, at least one, (n,).
        accept: the fraction to accept at most, in (0, 1).

    Example:
        >>> point = stranger_point(np.arange(100.0), 0.05)
        >>> round(point.threshold, 3), point.rank, point.accepted, round(point.guaranteed, 4)
        (95.0, 5, 0.04, 0.0495)
    """
    n = len(scores)
    rank = max(1, min(n, math.floor((n + 1) * accept + 1e-9)))
    kth_largest = np.float32(np.sort(scores)[n - rank])
    threshold = float(np.nextafter(kth_largest, np.float32(np.inf)))  # scores are fp32
    return StrangerPoint(threshold, n, rank, float(np.mean(scores >= threshold)), rank / (n + 1))


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature T and its fit on labelled images.

    Attributes:
        value: T; 1 if the images do not determine it.
        determined: whether the NLL has its minimum inside ``T_RANGE``: some images are misclassified, but not most.
        nll: mean negative log-likelihood at ``value``.
        nll_at_one: mean negative log-likelihood at T = 1.
        accuracy: fraction of images whose class is the most probable.
        n: number of images.
    """

    value: float
    determined: bool
    nll: float
    nll_at_one: float
    accuracy: float
    n: int


def fit_temperature(logits: Float[Tensor, "batch classes"], labels: Labels) -> Temperature:
    """The T in ``T_RANGE`` that minimises the NLL of softmax(l / T); 1 if the minimum is at an end of the range.

    An accuracy of 1 leaves the temperature undetermined: the NLL keeps falling as T goes to 0.

    Args:
        logits: s cos(f, t_c), (B, C).
        labels: (B,).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]]).expand(4, 2)  # three of four are correct: softmax(l / T) = (3/4, 1/4)
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])).value, 3)  # 2 / log 3
        1.82
    """

    def nll(log_t: float) -> float:
        return float(F.cross_entropy(logits.double() / math.exp(log_t), labels))

    low, high = map(math.log, T_RANGE)
    best = float(minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-8}).x)
    determined = low + 0.01 < best < high - 0.01
    value = math.exp(best) if determined else 1.0
    accuracy = float((logits.argmax(1) == labels).double().mean())
    return Temperature(value, determined, nll(math.log(value)), nll(0.0), accuracy, len(labels))
