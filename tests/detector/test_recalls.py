"""Thresholds at other recalls: those that a calibration for each recall would set, and files that have none."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import PHOTOS, clipos, inside, save_classes, save_detector

from clipos_lightning import Detector
from clipos_lightning.detector.recalls import is_recall_table, recalls_of, why_no_recalls
from clipos_lightning.evaluation.calibration import RECALL_STEPS, recall_table

ONE_RECALL = ("--recall", 0.8, "--num_workers", 0, "--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector, 27 images of its classes, and the detector calibrated with them for a recall of 85 %."""
    root = tmp_path_factory.mktemp("recalls")
    save_detector(root / "detector.safetensors")
    save_classes(root / "more", 9)
    with inside(root):
        words = ("--recall", 0.85, "--num_workers", 0, "--device", "cpu", "--out", "at85.safetensors")
        run = clipos("calibrate", "detector.safetensors", "more", *words)
    assert run.code == 0, run.err
    return root


def kth_smallest(scores: list[float], recall: Fraction) -> float | None:
    """The conformal threshold in exact arithmetic; None: too few scores."""
    k = int((len(scores) + 1) * (1 - recall))
    return sorted(scores)[k - 1] if k else None


@pytest.mark.parametrize("n", [1, 2, 18, 19, 20, 99, 137])
def test_the_table_is_that_of_exact_arithmetic(n: int) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    percents = {*range(50, 100), Fraction(925, 10)}
    expected = {float(Fraction(p) / 100): kth_smallest(scores.tolist(), Fraction(p) / 100) for p in percents}
    assert dict(recall_table(scores, 0.925)) == {r: t for r, t in sorted(expected.items()) if t is not None}
    assert len(RECALL_STEPS) == 50


def test_the_table_holds_what_another_calibration_would_set(place: Path) -> None:
    with inside(place):
        run = clipos("calibrate", "detector.safetensors", "more", *ONE_RECALL, "--out", "at80.safetensors")
        assert run.code == 0, run.err
        first, second = (Detector.load(f"at{percent}.safetensors", "cpu") for percent in (85, 80))
    recalls = recalls_of(first)
    assert recalls is not None and recalls_of(second) is not None
    assert (recalls.start, recalls.at(0.85)[1]) == (0.85, first.threshold)
    assert recalls.at(0.8) == (0.8, second.threshold) and second.threshold > first.threshold
    assert recalls.recalls[0] == 0.5 and recalls.recalls[-1] == 0.96  # 28 x 0.04 is more than 1, 28 x 0.03 is not
    assert first.calibration["by_recall"] == second.calibration["by_recall"]
    assert recalls.lowest(first.threshold) <= 0.85 < recalls.lowest(np.nextafter(first.threshold, -np.inf))


def test_too_few_images_for_the_requested_recall(place: Path) -> None:
    with inside(place):
        words = ("--recall", 0.99, *ONE_RECALL[2:], "--out", "at99.safetensors")
        assert clipos("calibrate", "detector.safetensors", "more", *words).code == 0
        detector = Detector.load("at99.safetensors", "cpu")
    recalls = recalls_of(detector)
    assert recalls is not None and recalls.at(recalls.start) == (0.96, detector.threshold)  # the smallest score is both


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def test_detectors_without_recalls_say_why(place: Path) -> None:
    detector = Detector.load(place / "at85.safetensors", "cpu")
    record = detector.calibration
    for changes, piece in (
        ({"threshold": None, "calibration": {}}, "no threshold, so every image gets a class"),
        ({"class_thresholds": [1.0] * len(PHOTOS)}, "a threshold for each class"),
        ({"calibration": {"source": "strangers"}}, "set with --strangers, not for a recall"),
        ({"calibration": {"source": "threshold"}}, "set with --threshold, not for a recall"),
        ({"calibration": without(record, "by_recall")}, "as earlier versions wrote it"),
        ({"threshold": detector.threshold + 1}, "its threshold was changed afterwards"),
        ({"calibration": record | {"recall": "0.85"}}, "its threshold was changed afterwards"),
    ):
        changed = replace(detector, **changes)
        assert recalls_of(changed) is None
        reason, command = why_no_recalls(changed, "my detector.safetensors")
        assert piece in reason
        assert command == "clipos calibrate 'my detector.safetensors' IMAGES --out calibrated.safetensors"


@pytest.mark.badinput
@pytest.mark.parametrize(
    "table",
    [
        None,
        {},
        [],
        [[0.5, 1.0]],
        [[0.5, 1.0], [0.9]],
        [[0.5, 1.0], [0.9, float("nan")]],
        [[0.5, 1.0], [0.9, "0.5"]],
        [[0.5, 1.0], [0.5, 0.5]],
        [[0.5, 1.0], [0.9, 2.0]],
        [[0.0, 1.0], [0.9, 0.5]],
        [[0.5, 1.0], [1.0, 0.5]],
    ],
)
def test_a_broken_table_counts_as_none(table: Any) -> None:
    assert not is_recall_table(table)
