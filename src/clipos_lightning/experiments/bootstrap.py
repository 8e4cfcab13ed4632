"""Paired bootstrap of AUROC differences: the same resampled images for both detectors. Pure functions, numpy."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..types import CountArray, FloatArray

REPEATS = 1000
RESAMPLE_BUDGET = 8_000_000  # numbers held at once


@lru_cache(maxsize=16)
def resample(n: int, repeats: int = REPEATS, seed: int = 0) -> CountArray:
    """How often each of n images is drawn in each repeat, with replacement, (repeats, n).

    A function of (n, repeats, seed) alone: every detector that is judged on these images sees the same draws.
    """
    rng, even = np.random.default_rng((seed, n)), np.full(n, 1 / n)
    counts = np.stack([rng.multinomial(n, even).astype(np.uint16) for _ in range(repeats)])
    counts.flags.writeable = False  # one array for all callers
    return counts


def resampled_auroc(
    inside: FloatArray, outside: FloatArray, id_counts: CountArray, ood_counts: CountArray
) -> NDArray[np.float64]:
    """AUROC in percent of images that count as often as drawn, one for each repeat; exact with ties.

    sum_i w_i (OOD weight below s_i + half of that at s_i) / (n_id n_ood): scores are sorted once for all repeats.

    Args:
        inside: ID scores, (n_id,).
        outside: OOD scores, (n_ood,).
        id_counts: (repeats, n_id).
        ood_counts: (repeats, n_ood).
    """
    order = np.argsort(outside, kind="stable")
    ordered = outside[order]
    across = np.argsort(inside, kind="stable")  # ID scores in order, too, so that memory is read in order
    inside = inside[across]
    left, right = np.searchsorted(ordered, inside, "left"), np.searchsorted(ordered, inside, "right")
    found = np.empty(len(id_counts))
    step = max(1, RESAMPLE_BUDGET // (len(inside) + len(outside)))
    for start in range(0, len(id_counts), step):
        ours, theirs = id_counts[start : start + step][:, across], ood_counts[start : start + step]
        below = np.concatenate([np.zeros((len(ours), 1), np.int64), theirs[:, order].cumsum(1, dtype=np.int64)], 1)
        wins = (ours * (below[:, left] + below[:, right])).sum(1) / 2
        found[start : start + step] = 100 * wins / (ours.sum(1) * theirs.sum(1))
    return found


def interval(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """95 % percentile interval of a - b over repeats (Efron and Tibshirani 1993, chapter 13)."""
    low, high = np.percentile(a - b, [2.5, 97.5])
    return float(low), float(high)
