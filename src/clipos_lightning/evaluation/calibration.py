"""A threshold for a wanted ID recall, with what it guarantees; a temperature for the probabilities. Pure functions.

The threshold is split conformal prediction's (Vovk et al. 2005; Papadopoulos et al. 2002): one of the calibration
scores, so that a new ID image, exchangeable with them, is accepted with at least the wanted probability. Temperature
scaling is Guo et al.'s (2017, arXiv:1706.04599).
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

T_RANGE = (0.05, 20.0)  # temperatures that are looked at


def conformal_rank(n: int, recall: float) -> int:
    """k = floor((n + 1) (1 - recall)): the k-th smallest of n scores guarantees the recall; 0: n is too small for it.

    Example:
        >>> conformal_rank(500, 0.95), conformal_rank(19, 0.95), conformal_rank(18, 0.95), conformal_rank(9, 0.9)
        (25, 1, 0, 1)
    """
    return math.floor((n + 1) * (1 - recall) + 1e-9)  # 10 * (1 - 0.9) is 0.9999...


def smallest_n(recall: float) -> int:
    """The fewest images that guarantee the recall at all.

    Example:
        >>> smallest_n(0.95), smallest_n(0.9), smallest_n(0.99)
        (19, 9, 99)
    """
    return math.ceil(1 / (1 - recall) - 1e-9) - 1


@dataclass(frozen=True)
class ConformalPoint:
    """A threshold, and what n calibration scores say about it.

    Attributes:
        threshold: an image is accepted when its score is at least this.
        n: calibration scores.
        rank: the threshold is the rank-th smallest of them.
        achieved: the share of the calibration scores that it accepts.
        guaranteed: the probability at least that a new exchangeable ID image is accepted: 1 - rank / (n + 1).
        likely: the recall on new ID images lies in this range for 9 of 10 calibration sets.
    """

    threshold: float
    n: int
    rank: int
    achieved: float
    guaranteed: float
    likely: tuple[float, float]


def conformal_point(scores: NDArray[np.float64], recall: float) -> ConformalPoint:
    """The conformal threshold of a wanted recall; the smallest score where n is too small to guarantee it.

    Args:
        scores: of ID images, finite, at least one.
        recall: wanted, in (0, 1).

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


def likely_recall(n: int, rank: int) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of the recall on new ID images when the rank-th smallest of n scores is the threshold.

    Without ties the recall is distributed as Beta(n + 1 - rank, rank).

    Example:
        >>> [round(recall, 6) for recall in likely_recall(1, 1)]  # uniform
        [0.05, 0.95]
    """
    low, high = betaincinv(n + 1 - rank, rank, [0.05, 0.95]).tolist()
    return low, high


@dataclass(frozen=True)
class Temperature:
    """T, and what it does to labelled images.

    Attributes:
        value: 1 where they do not determine it.
        determined: the NLL has its minimum inside ``T_RANGE``: some image is taken for another class, not most of them.
        nll: mean negative log likelihood at ``value``.
        nll_at_one: at T = 1.
        accuracy: share of images whose class is the most probable.
        n: images.
    """

    value: float
    determined: bool
    nll: float
    nll_at_one: float
    accuracy: float
    n: int


def fit_temperature(logits: Float[Tensor, "batch classes"], labels: Labels) -> Temperature:
    """The T in ``T_RANGE`` that minimises the NLL of softmax(l / T); 1 where the minimum lies at the range's end.

    (Where every image is classified right, the NLL falls without end as T goes to 0: such images say nothing of how
    sure to be.)

    Args:
        logits: s cos(f, t_c), (B, C).
        labels: (B,).
    """

    def nll(log_t: float) -> float:
        return float(F.cross_entropy(logits.double() / math.exp(log_t), labels))

    low, high = map(math.log, T_RANGE)
    best = float(minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-8}).x)
    determined = low + 0.01 < best < high - 0.01
    value = math.exp(best) if determined else 1.0
    accuracy = float((logits.argmax(1) == labels).double().mean())
    return Temperature(value, determined, nll(math.log(value)), nll(0.0), accuracy, len(labels))
