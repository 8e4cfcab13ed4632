"""OOD metrics compared with scikit-learn and a plain loop, for several sizes and ties; the metric classes."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from clipos_lightning.errors import InputError
from clipos_lightning.evaluation.metrics import (
    OOD_METRICS,
    OODMetrics,
    RowBuffer,
    auroc,
    average_precision,
    boundary_f,
    fpr_at_recall,
    fpr_at_tpr,
    mask_iou,
    ood_metrics,
)

SIZES = [(1, 1), (1, 9), (10, 3), (19, 20), (20, 20), (37, 11), (40, 200), (333, 100)]


@pytest.fixture(params=[2, 7, 50, 10**6], ids=lambda n: f"{n}_levels")
def draw(request):
    """n_id, n_ood -> scores with ties (few levels) or without (many), ID higher on average."""

    def scores(n_id: int, n_ood: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((n_id, n_ood, request.param))
        levels = request.param
        inside, outside = rng.integers(levels, size=n_id) + levels // 4, rng.integers(levels, size=n_ood)
        return inside / levels * 3 - 1, outside / levels * 3 - 1

    return scores


def as_sklearn(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.r_[np.ones(len(positive)), np.zeros(len(negative))], np.r_[positive, negative]


@pytest.mark.parametrize("size", SIZES)
def test_auroc_and_average_precision_equal_scikit_learns(draw, size):
    inside, outside = draw(*size)
    labels, scores = as_sklearn(inside, outside)
    assert auroc(inside, outside) == pytest.approx(100 * roc_auc_score(labels, scores))
    assert average_precision(inside, outside) == pytest.approx(100 * average_precision_score(labels, scores))
    metrics = ood_metrics(inside, outside)
    assert set(metrics) == set(OOD_METRICS)
    assert metrics["auroc"] == pytest.approx(100 * roc_auc_score(1 - labels, -scores))
    assert metrics["aupr_in"] == pytest.approx(100 * average_precision_score(labels, scores))
    assert metrics["aupr_out"] == pytest.approx(100 * average_precision_score(1 - labels, -scores))


def fpr95_by_the_rule(inside: np.ndarray, outside: np.ndarray) -> float:
    """Recall closest to 95 % (the higher of two); the lowest threshold with that recall, at full recall the first."""
    thresholds = sorted({*inside.tolist(), *outside.tolist()}, reverse=True)
    recalls = [Fraction(int((inside >= t).sum()), len(inside)) for t in thresholds]
    chosen = min(recalls, key=lambda recall: (abs(recall - Fraction(19, 20)), -recall))
    fitting = [t for t, recall in zip(thresholds, recalls, strict=True) if recall == chosen]
    threshold = fitting[0] if chosen == 1 else fitting[-1]
    return 100 * float((outside >= threshold).mean())


@pytest.mark.parametrize("size", SIZES)
def test_fpr95_follows_the_rule(draw, size):
    inside, outside = draw(*size)
    assert fpr_at_recall(inside, outside) == pytest.approx(fpr95_by_the_rule(inside, outside))
    assert ood_metrics(inside, outside)["fpr95"] == pytest.approx(fpr95_by_the_rule(inside, outside))


def test_fpr95_by_hand():
    ten = np.arange(1.0, 11)  # recalls 0.9 and 1 are equally close: the higher, threshold 1
    assert fpr_at_recall(ten, np.array([0.5, 1.5, 2.5, 20.0])) == 75
    twenty = np.arange(1.0, 21)  # 19 of 20 at thresholds 2 and (an OOD score) 1.5: the lower
    assert fpr_at_recall(twenty, np.array([0.5, 1.5, 2.5, 30.0])) == 75
    assert fpr_at_recall(np.array([5.0]), np.array([1.0, 2.0])) == 0


@pytest.mark.parametrize("size", SIZES)
def test_fpr95_with_ood_positive_equals_scikit_learns_curve(draw, size):
    inside, outside = draw(*size)
    fpr, tpr, _ = roc_curve(*as_sklearn(-outside, -inside), drop_intermediate=False)
    expected = 100 * fpr[np.argmax(tpr >= 0.95)]
    assert fpr_at_tpr(-outside, -inside) == pytest.approx(expected)
    assert ood_metrics(inside, outside)["fpr95_ood_pos"] == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [([], [1.0]), ([1.0], []), ([1.0, np.nan], [1.0]), ([1.0], [-np.inf])])
def test_no_figures_for_empty_sets_and_scores_that_are_none(wrong):
    with pytest.raises((ValueError, InputError), match=r"at least one|not finite"):
        ood_metrics(*(np.array(part) for part in wrong))


def batches(n: int, size: int) -> tuple[torch.Tensor, ...]:
    return torch.arange(n).split(size)


@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_the_metric_equals_the_function_whatever_the_batches(size):
    generator = torch.Generator().manual_seed(0)
    scores, is_id = 30 + 3 * torch.rand(101, generator=generator), torch.rand(101, generator=generator) > 0.4
    scores += is_id
    metric, halves = OODMetrics(), [OODMetrics(), OODMetrics()]
    for n, index in enumerate(batches(101, size)):
        metric.update(scores[index], is_id[index])
        halves[n % 2].update(scores[index], is_id[index])
    expected = ood_metrics(scores[is_id].numpy(), scores[~is_id].numpy())
    assert metric.compute() == expected
    halves[0].merge_state(halves[1])
    assert halves[0].compute() == pytest.approx(expected)


def test_scores_far_outside_0_to_1_are_not_squashed():
    scores, is_id = torch.tensor([30.0, 31, 32, 33]), torch.tensor([False, False, True, True])
    metric = OODMetrics()
    metric.update(scores, is_id)
    expected = {"auroc": 100, "fpr95": 0, "fpr95_ood_pos": 0, "aupr_in": 100, "aupr_out": 100}
    assert metric.compute() == expected


@pytest.mark.parametrize("size", [1, 4, 100])
def test_rows_come_back_in_the_order_of_their_indices(size):
    order = torch.from_numpy(np.random.default_rng(0).permutation(15))
    values = torch.stack([order.double() * 10, order.double() + 0.125], 1)  # exact in fp32
    rows, halves = RowBuffer(2), [RowBuffer(2), RowBuffer(2)]
    for n, batch in enumerate(batches(15, size)):
        rows.update(order[batch], values[batch])
        halves[n % 2].update(order[batch], values[batch])
    halves[0].merge_state(halves[1])
    for table in (rows.compute(), halves[0].compute()):
        np.testing.assert_array_equal(table, np.stack([np.arange(15) * 10.0, np.arange(15) + 0.125], 1))
    empty = RowBuffer(3)
    empty.update(torch.empty(0), torch.empty(0, 3))
    assert empty.compute().shape == (0, 3)


def square(top: int, left: int, side: int, grid: int = 8) -> np.ndarray:
    mask = np.zeros((grid, grid), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "truth", "iou", "f"),
    [
        (square(1, 1, 4), square(1, 1, 4), 1.0, 1.0),
        (square(0, 0, 8), square(0, 0, 8), 1.0, 1.0),  # the image's edge is a boundary
        (square(1, 2, 4), square(1, 1, 4), 12 / 20, 1.0),  # one patch aside: within the tolerance
        (square(0, 0, 2), square(5, 5, 3), 0.0, 0.0),
        (np.zeros((8, 8), bool), square(1, 1, 4), 0.0, 0.0),
        # Boundaries along the image's edge and in its middle, 3 patches apart.
        (square(0, 0, 8), square(3, 3, 2), 4 / 64, 0.0),
        # Rings of 20 and of 8: 9 of the 20 are near the inner one, above and to its left; 5 of the 8 near the outer.
        (square(1, 1, 6), square(2, 2, 3), 9 / 36, 2 / (20 / 9 + 8 / 5)),
    ],
)
def test_mask_iou_and_boundary_f_by_hand(mask, truth, iou, f):
    assert mask_iou(mask, truth) == pytest.approx(iou)
    assert boundary_f(mask, truth) == pytest.approx(f)
    assert boundary_f(truth, mask) == pytest.approx(f)
