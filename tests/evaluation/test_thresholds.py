"""Operating points against naive loops: every count exact, at every threshold, with ties."""

import numpy as np
import pytest

from clipos_lightning.evaluation.metrics import fpr_at_recall
from clipos_lightning.evaluation.thresholds import (
    MATRIX_LIMIT,
    confusion,
    count_accepted,
    operating_point,
    threshold_at_recall,
    threshold_grid,
)


def tables(classes: int, seed: int = 0, ties: bool = True) -> tuple[dict, np.ndarray]:
    """An ID set and two OOD sets with predictions and scores; with ties, scores are quarters."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 300)

    def table(count: int, shift: float) -> dict[str, np.ndarray]:
        scores = rng.normal(shift, 1, count)
        scores = np.round(4 * scores) / 4 if ties else scores.astype(np.float32).astype(float)
        return {"s": scores, "predicted": rng.integers(0, classes, count).astype(float)}

    results = {"id": table(300, 2), "near": table(80, 1), "far": table(200, -1)}
    keep = rng.random(300) < 0.8
    results["id"]["predicted"][keep] = labels[keep]
    return results, labels


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("recall", [0.01, 0.5, 0.9, 0.95, 0.999, 1.0])
def test_the_threshold_is_the_highest_that_accepts_enough(recall: float, ties: bool) -> None:
    scores = tables(3, ties=ties)[0]["id"]["s"]
    threshold = threshold_at_recall(scores, recall)
    enough = [t for t in set(scores) if sum(s >= t for s in scores) / len(scores) >= recall]
    assert threshold == max(enough)
    assert type(threshold) is float


def test_shares_that_floats_cannot_hold_are_met_exactly() -> None:
    """19 of 20 is exactly 95 %, 57 of 100 exactly 57 %: no image more is accepted."""
    for count in (20, 100, 1000, 50000):
        scores = np.arange(count, dtype=float)
        for percent in range(5, 101, 5):
            assert threshold_at_recall(scores, percent / 100) == count - count * percent // 100


@pytest.mark.parametrize(("scores", "recall"), [([], 0.9), ([1.0, np.nan], 0.9), ([1.0], 0.0), ([1.0], 1.1)])
def test_no_threshold_without_scores_or_a_recall(scores: list[float], recall: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        threshold_at_recall(np.array(scores), recall)


def test_fpr95_accepts_no_fewer_ood_images() -> None:
    """MCM's rule takes the lowest threshold of the same recall."""
    results, _ = tables(3, ties=False)
    inside, outside = results["id"]["s"], results["near"]["s"]
    ours = 100 * np.mean(outside >= threshold_at_recall(inside))
    assert ours <= fpr_at_recall(inside, outside) <= ours + 100 * 3 / len(outside)


def test_counts_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    scores, cells = np.round(rng.normal(0, 1, 200), 1), rng.integers(0, 7, 200)
    thresholds = np.unique(np.r_[scores[:20], -9.0, 9.0])
    counts = count_accepted(scores, cells, 7, thresholds)
    for k, threshold in enumerate(thresholds):
        for cell in range(7):
            assert counts[k, cell] == sum(s >= threshold and c == cell for s, c in zip(scores, cells, strict=True))


def test_the_grid_has_every_whole_percent() -> None:
    results, _ = tables(3, ties=False)
    inside, outside = results["id"]["s"], np.r_[results["near"]["s"], results["far"]["s"]]
    grid = threshold_grid(inside, outside)
    assert (np.diff(grid) > 0).all()
    assert len(grid) <= 200
    for scores in (inside, outside):
        assert {threshold_at_recall(scores, p / 100) for p in range(1, 101)} <= set(grid)
    assert set(threshold_grid(inside, inside[:0])) <= set(inside)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("classes", [1, 2, 5, MATRIX_LIMIT, MATRIX_LIMIT + 1, 100])
def test_the_confusion_is_that_of_a_loop(classes: int, ties: bool) -> None:
    results, labels = tables(classes, ties=ties)
    names = [f"class {i}" for i in range(classes)]
    found = confusion(results, labels, names, "s")
    assert found.matrix == (classes <= MATRIX_LIMIT)
    assert found.rows == [*names, "near", "far"]
    truth = {"id": labels, "near": np.full(80, classes), "far": np.full(200, classes + 1)}
    for k in {0, found.default, len(found.thresholds) // 2, len(found.thresholds) - 1}:
        accepted = np.zeros((classes + 2, len(found.columns)), int)
        unknown = np.zeros(classes + 2, int)
        for name, rows in truth.items():
            for row, score, predicted in zip(rows, results[name]["s"], results[name]["predicted"], strict=True):
                if score < found.thresholds[k]:
                    unknown[row] += 1
                else:
                    accepted[row, int(predicted) if found.matrix else int(row != predicted)] += 1
        assert (found.accepted[k] == accepted).all()
        assert (found.unknown[k] == unknown).all()
    assert found.totals.sum() == 580
    right = found.accepted[0, np.arange(classes), found.right].sum()
    assert right == np.sum((results["id"]["predicted"] == labels) & (results["id"]["s"] >= found.thresholds[0]))


def test_places_on_the_grid_are_the_thresholds_at_these_recalls() -> None:
    results, labels = tables(3)
    found = confusion(results, labels, list("abc"), "s")
    for recall in (0.8, 0.9, 0.95, 0.99):
        assert found.thresholds[found.index_at_recall(recall)] == threshold_at_recall(results["id"]["s"], recall)
    assert found.default == found.index_at_recall(0.95)


def test_the_most_confused_class_of_a_row() -> None:
    results = {
        "id": {"s": np.zeros(6), "predicted": np.array([0.0, 1, 1, 2, 1, 1])},
        "out": {"s": np.zeros(3), "predicted": np.array([2.0, 2, 0])},
    }
    found = confusion(results, np.array([0, 0, 0, 0, 1, 1]), ["a", "b", "c"], "s")
    assert found.most_confused == ["b", "", "", "c"]
    assert found.totals.tolist() == [4, 2, 0, 3]  # a class without test images


def test_the_operating_point_agrees_with_the_confusion() -> None:
    results, labels = tables(5, ties=False)
    found, point = confusion(results, labels, list("abcde"), "s"), operating_point(results, labels, "s")
    now = found.accepted[found.default]
    assert point["threshold"] == found.thresholds[found.default]
    assert point["id_accepted"] == pytest.approx(100 * now[:5].sum() / 300)
    assert point["id_accepted_right"] == pytest.approx(100 * np.trace(now[:5]) / 300)
    assert point["ood_accepted"] == pytest.approx({"near": 100 * now[5].sum() / 80, "far": 100 * now[6].sum() / 200})
