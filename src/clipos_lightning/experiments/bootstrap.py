"""Paired bootstrap of AUROC differences: the same resampled images for both detectors. Pure functions, numpy."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..types import CountArray, FloatArray

REPEATS = 1000
RESAMPLE_BUDGET = 8_000_000  # array elements in memory at once


@lru_cache(maxsize=16)
def resample(n: int, repeats: int = REPEATS, seed: int = 0) -> CountArray:
    """How often each of n images is drawn in each repeat, with replacement, (repeats, n).

    Depends on (n, repeats, seed) alone, so all detectors that are compared on these images get the same draws.
    """
    rng, uniform = np.random.default_rng((seed, n)), np.full(n, 1 / n)
    counts = np.stack([rng.multinomial(n, uniform).astype(np.uint16) for _ in range(repeats)])
    counts.flags.writeable = False  # the cache returns the same array to all callers
    return counts


def resampled_auroc(
    id_scores: FloatArray, ood_scores: FloatArray, id_counts: CountArray, ood_counts: CountArray
) -> NDArray[np.float64]:
    """AUROC in percent for each bootstrap repeat, with ID as the positive class; exact with ties.

    With w_i, v_j the counts of the ID and OOD images and s_i, u_j their scores: the sum over i of
    w_i (sum of v_j with u_j < s_i + half the sum of v_j with u_j = s_i), divided by (sum of w_i)(sum of v_j).
    Scores are sorted once for all repeats.

    Args:
        id_scores: (n_id,).
        ood_scores: (n_ood,).
        id_counts: how often each ID image is drawn, (repeats, n_id).
        ood_counts: how often each OOD image is drawn, (repeats, n_ood).

    Returns:
        (repeats,).
    """
    ood_order = np.argsort(ood_scores, kind="stable")
    ood_sorted = ood_scores[ood_order]
    id_order = np.argsort(id_scores, kind="stable")  # sorted too, so that ``below`` is read sequentially
    id_sorted = id_scores[id_order]
    left, right = np.searchsorted(ood_sorted, id_sorted, "left"), np.searchsorted(ood_sorted, id_sorted, "right")
    found = np.empty(len(id_counts))
    step = max(1, RESAMPLE_BUDGET // (len(id_scores) + len(ood_scores)))
    for start in range(0, len(id_counts), step):
        w, v = id_counts[start : start + step][:, id_order], ood_counts[start : start + step][:, ood_order]
        below = np.concatenate([np.zeros((len(v), 1), np.int64), v.cumsum(1, dtype=np.int64)], 1)
        wins = (w * (below[:, left] + below[:, right])).sum(1) / 2
        found[start : start + step] = 100 * wins / (w.sum(1) * v.sum(1))
    return found


def interval(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """95 % percentile interval of a - b over bootstrap repeats (Efron and Tibshirani 1993, chapter 13)."""
    low, high = np.percentile(a - b, [2.5, 97.5])
    return float(low), float(high)
