"""Bootstrap intervals against plain loops: resample, recompute AUROC image by image."""

import numpy as np
import pytest

from clipos_lightning.evaluation.metrics import auroc
from clipos_lightning.experiments.bootstrap import interval, resample, resampled_auroc


def naive(inside, outside, id_counts, ood_counts):
    chosen = [np.repeat(values, counts) for values, counts in ((inside, id_counts), (outside, ood_counts))]
    wins = sum(float(a > b) + 0.5 * float(a == b) for a in chosen[0] for b in chosen[1])
    return 100 * wins / (len(chosen[0]) * len(chosen[1]))


@pytest.mark.parametrize("ties", [False, True])
def test_resampled_auroc_equals_a_loop_over_drawn_images(ties, monkeypatch):
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0.5, 1, 13), rng.normal(0, 1, 17)
    if ties:
        inside, outside = inside.round(), outside.round()
    counts = resample(13, 7), resample(17, 7, seed=3)
    monkeypatch.setattr("clipos_lightning.experiments.bootstrap.RESAMPLE_BUDGET", 60)  # in several pieces
    found = resampled_auroc(inside, outside, *counts)
    assert found == pytest.approx([naive(inside, outside, a, b) for a, b in zip(*counts, strict=True)])


def test_every_image_once_is_the_plain_auroc():
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(size=40).round(1), rng.normal(size=30).round(1)
    ones = np.ones((1, 40), np.int64), np.ones((1, 30), np.int64)
    assert resampled_auroc(inside, outside, *ones)[0] == pytest.approx(auroc(inside, outside))


def test_draws_are_a_function_of_size_and_seed():
    assert resample(20, 5) is resample(20, 5)
    assert (resample(20, 5).sum(1) == 20).all()
    assert (resample(20, 5) != resample(20, 5, seed=1)).any()


def test_the_interval_is_the_percentiles_of_paired_differences():
    rng = np.random.default_rng(2)
    a, b = rng.normal(1, 1, 1000), rng.normal(0, 1, 1000)
    low, high = interval(a, b)
    ordered = sorted(a - b)
    assert ordered[24] <= low <= ordered[25] and ordered[973] <= high <= ordered[975]


def test_pairing_narrows_the_interval_of_two_detectors_that_agree():
    rng = np.random.default_rng(3)
    inside, outside = rng.normal(1, 1, 200), rng.normal(0, 1, 200)
    other = inside + rng.normal(0, 0.05, 200), outside + rng.normal(0, 0.05, 200)
    counts = resample(200), resample(200, seed=1)
    a, b = resampled_auroc(inside, outside, *counts), resampled_auroc(*other, *counts)
    unpaired = resampled_auroc(*other, resample(200, seed=8), resample(200, seed=9))
    widths = [high - low for low, high in (interval(a, b), interval(a, unpaired))]
    assert widths[0] < widths[1] / 4
