"""clipos calibrate: a threshold by other classes, by hand, or for each predicted class; a memory; its warnings."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from running import PHOTOS, Run, clipos, done, inside, refused, save_noise, save_scene

from clipos_lightning import Detector, InputError
from clipos_lightning.cli.calibration_images import MAX_MEMORY, ScoredImages, split_for_memory
from clipos_lightning.cli.calibration_lines import describe_classes, describe_temperature
from clipos_lightning.evaluation.calibration import Temperature, conformal_point, conformal_rank, stranger_point
from clipos_lightning.evaluation.memory import Memory

pytestmark = pytest.mark.usefixtures("one_clip")


@pytest.fixture(scope="module")
def home(one_clip: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/<class>/ to learn from, more/<class>/ to calibrate with, strangers/ of noise; a detector with a memory."""
    root = tmp_path_factory.mktemp("home")
    for shape in PHOTOS:
        for i in range(3):
            save_scene(root / "photos" / shape / f"{i}.png", shape, i)
        for i in range(24):
            save_scene(root / "more" / shape / f"{i}.png", shape, 100 + i)
    for i in range(30):
        save_noise(root / "strangers" / f"{i}.png", i)
    with inside(root):
        fit = done("fit", "--config", "own_micro.yaml", "--trainer.max_steps", 1)
        (root / "last.ckpt").write_bytes(Path(fit.checkpoint).read_bytes())
        (root / "fit.txt").write_text(fit.out)
    return root


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(home)
    yield home
    for path in home.glob("*.safetensors"):
        path.unlink()


def calibrate(*words: object) -> Run:
    run = clipos("calibrate", "last.ckpt", *words, "--num_workers", 0, "--views", 2)
    assert run.code == 0, run.err
    return run


def scores_of(detector: Detector, folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and predicted classes of all images below a folder, in the order of their paths."""
    found = detector.predict(detector.prepare(sorted(Path(folder).rglob("*.png"))))
    return found.score.double().numpy(), found.predicted.numpy()


# ---- thresholds


def test_at_most_so_many_strangers_are_accepted(at_home: Path) -> None:
    run = calibrate("more", "--strangers", "strangers", "--accept", 0.1)
    detector = Detector.load("detector.safetensors", "cpu")
    strangers, (known, _) = scores_of(detector, "strangers")[0], scores_of(detector, "more")
    third = np.sort(strangers)[-3]  # floor(31 x 0.1) = 3
    assert detector.threshold == pytest.approx(third, abs=1e-4) and (strangers >= detector.threshold).sum() == 2
    assert "just above the 3rd largest score of 30 images of other classes" in run.out
    assert "accepted of 30 images of other classes: 6.7 %" in run.out
    assert f"accepted of 72 ID images: {100 * (known >= detector.threshold).mean():.1f} %" in run.out
    assert "with a probability of at most 10 % (3 / 31 = 9.7 %)" in run.out
    assert detector.calibration["source"] == "strangers" and detector.calibration["accept"] == 0.1


def test_too_few_strangers_say_what_they_guarantee(at_home: Path) -> None:
    run = calibrate("--strangers", "strangers", "--accept", 0.02)
    assert "30 images are too few to guarantee 2 %, which needs 49: the largest score guarantees 3.2 %" in run.out
    assert "views of the few-shot images" in run.out  # the ID figure without ID images


def test_strangers_are_counted_where_something_else_sets_the_threshold(at_home: Path) -> None:
    plain = calibrate("more", "--recall", 0.9).lines[0]
    run = calibrate("more", "--recall", 0.9, "--strangers", "strangers", "--out", "b.safetensors")
    assert run.lines[0] == plain and "images of other classes: " in run.out


def test_a_threshold_by_hand(at_home: Path) -> None:
    run = calibrate("more", "--threshold", -7.25)
    detector = Detector.load("detector.safetensors", "cpu")
    assert detector.threshold == -7.25 and "threshold: mahalanobis >= -7.25, as given" in run.out
    known, _ = scores_of(detector, "more")
    assert f"accepted of 72 ID images: {100 * (known >= -7.25).mean():.1f} %" in run.out


def test_the_strangers_guarantee_by_drawing() -> None:
    """The probability that a new stranger is accepted is at most the wanted one, and not much less."""
    rng = np.random.default_rng(0)
    accepted = []
    for _ in range(4000):
        scores = rng.normal(size=40).astype(np.float32).astype(np.float64)
        point = stranger_point(scores[:39], 0.1)
        assert point.accepted <= 0.1
        accepted.append(scores[39] >= point.threshold)
    assert 0.08 < np.mean(accepted) < 0.115  # 4 / 40 = 0.1


# ---- by class


def test_a_threshold_for_each_predicted_class(at_home: Path) -> None:
    run = calibrate("more", "--recall", 0.9, "--per_class")
    detector = Detector.load("detector.safetensors", "cpu")
    scores, predicted = scores_of(detector, "more")
    assert detector.class_thresholds is not None and len(detector.class_thresholds) == 3
    for c, threshold in enumerate(detector.class_thresholds):
        mine = np.sort(scores[predicted == c])
        expected = mine[conformal_rank(len(mine), 0.9) - 1] if len(mine) >= 9 else detector.threshold
        assert threshold == pytest.approx(expected, abs=1e-4)
    assert len(set(detector.class_thresholds)) == 3 and "Mondrian" in run.out
    decisions = detector(sorted(Path("more").rglob("*.png")))
    for decision in decisions:
        own = detector.class_thresholds[detector.class_names.index(decision.class_name)]
        assert decision.threshold == own and (decision.label == "unknown") == (decision.score < own)
    rows = clipos("predict", "detector.safetensors", "more", "--num_workers", 0, "--format", "csv").lines[1:]
    assert {row.rsplit(",", 1)[1] for row in rows} == {f"{t:.9g}" for t in detector.class_thresholds}


def test_a_class_with_few_images_keeps_the_overall_threshold(at_home: Path) -> None:
    few = sorted(Path("more/star").glob("*.png"))[:5]
    run = calibrate("more/circle", "more/heart", *few, "--recall", 0.95, "--per_class")
    detector = Detector.load("detector.safetensors", "cpu")
    assert detector.class_thresholds is not None
    assert detector.class_thresholds[detector.class_names.index("star")] == detector.threshold
    assert "fewer than 19 images were predicted as star" in run.out


def test_the_promise_of_a_threshold_by_class_by_drawing() -> None:
    """Of the images predicted as a class, a new one is accepted with the wanted probability, in each class."""
    rng = np.random.default_rng(1)
    kept: dict[int, list[bool]] = {0: [], 1: []}
    for _ in range(3000):
        predicted = rng.integers(0, 2, 60)
        scores = rng.normal(size=60) + 5 * predicted  # the classes' scores differ widely
        for c in (0, 1):
            mine = scores[:-1][predicted[:-1] == c]
            if predicted[-1] == c and len(mine):
                kept[c].append(scores[-1] >= conformal_point(mine, 0.9).threshold)
    for values in kept.values():
        assert 0.9 <= np.mean(values) + 0.02 and np.mean(values) < 0.96


def test_recall_by_class_where_folders_are_named_like_classes(at_home: Path) -> None:
    run = calibrate("more")
    detector = Detector.load("detector.safetensors", "cpu")
    scores, _ = scores_of(detector, "more")
    assert detector.threshold is not None
    for place, shape in enumerate(sorted(PHOTOS)):
        part = (scores[24 * place : 24 * (place + 1)] >= detector.threshold).mean()
        assert f"  {shape}: {100 * part:.1f} % of 24 accepted" in run.out
    assert "by class (72 images in folders named like a class)" in run.out
    flat = calibrate("strangers", "--out", "b.safetensors")
    assert "by class" not in flat.out


def test_a_class_far_below_the_promise_is_named() -> None:
    labels, accepted = np.repeat([0, 1], 100), np.ones(200, dtype=bool)
    accepted[:20] = False
    lines = describe_classes(["breast", "chest"], labels, labels, accepted, 0.95)
    assert lines[1] == "  breast: 80.0 % of 100 accepted" and "breast is below 95 %: --per_class" in lines[-1]
    accepted[:15] = True
    assert "--per_class" not in describe_classes(["breast", "chest"], labels, labels, accepted, 0.95)[-1]
    assert describe_classes(["breast", "chest"], labels - 9, labels, accepted, 0.95) == []


def test_labels_from_folders() -> None:
    images = ScoredImages(np.zeros(3), np.zeros(3, dtype=np.int64), ["m/Polar_Bear/1.png", "m/2.png", "m/lynx/3.png"])
    assert images.labels([["cat", "lynx"], ["polar bear"]]).tolist() == [1, -1, 0]


# ---- a memory of unlabelled ID images


def test_half_of_the_images_are_remembered_and_the_other_half_sets_the_threshold(at_home: Path) -> None:
    Path("more/notes.txt").write_text("none of it is an image")
    run = calibrate("more", "--memory", "--recall", 0.9)
    assert run.err.count("note: left out 1 file") == 1
    detector, before = Detector.load("detector.safetensors", "cpu"), Detector.load("last.ckpt", "cpu")
    assert "memory: 36 ID images, which did not set the threshold, and 9 from before" in run.out
    assert detector.head.memory is not None and before.head.memory is not None
    remembered, others = split_for_memory(["more"])
    assert len(remembered) == len(others) == 36 and not {*remembered} & {*others}
    with torch.inference_mode():
        features = before.backbone.encode_image(before.prepare(remembered), before.head.memory_paths)
    for name, tensor in detector.head.memory.tensors.items():
        old = before.head.memory.tensors[name]
        torch.testing.assert_close(tensor[:9], old)
        torch.testing.assert_close(tensor[9:], before.head.remember(features).tensors[name])
    scores = np.sort(detector.predict(detector.prepare(others)).score.double().numpy())
    assert detector.threshold == pytest.approx(scores[conformal_rank(36, 0.9) - 1], abs=1e-4)


def test_an_image_is_never_on_both_sides(at_home: Path) -> None:
    link = at_home / "again"
    if not link.exists():
        link.symlink_to(at_home / "more")
    first, second = split_for_memory(["more", "again", "more/star"])
    assert len(first) + len(second) == 72
    for part, plain in zip((first, second), split_for_memory(["more/star", "more/heart", "more/circle"]), strict=True):
        assert [Path(path).resolve() for path in part] == [Path(path).resolve() for path in plain]
    assert MAX_MEMORY >= 1000
    with pytest.raises(InputError, match="--memory splits the images in two halves"):
        split_for_memory(["more/star/1.png"])


def test_the_promise_holds_with_a_memory() -> None:
    """Over draws: a new image is accepted with the wanted probability, as it is in neither half."""
    generator = torch.Generator().manual_seed(0)
    accepted = []
    for _ in range(600):
        features = torch.nn.functional.normalize(torch.randn(80, 6, generator=generator), dim=1)
        known, others, new = features[:40], features[40:79], features[79:]
        reference, _ = Memory(known, known, torch.arange(40) % 2, known[:0]).references(5, 0.9)
        scores = -reference.distances(others).amin(1).double().numpy()
        threshold = conformal_point(scores, 0.9).threshold
        accepted.append(float(-reference.distances(new).amin()) >= threshold)
    assert 0.87 < np.mean(accepted) < 0.93
    # without the split, remembered images score higher than new ones, and the promise is broken
    broken = []
    for _ in range(600):
        features = torch.nn.functional.normalize(torch.randn(41, 6, generator=generator), dim=1)
        reference, _ = Memory(features[:40], features[:40], torch.arange(40) % 2, features[:0]).references(5, 0.9)
        scores = reference.likeness(features[:40]).double().numpy()
        broken.append(float(reference.likeness(features[40:])) >= conformal_point(scores, 0.9).threshold)
    assert np.mean(broken) < 0.85


# ---- warnings and errors


def test_a_detector_near_chance_is_told() -> None:
    def lines(accuracy: float, classes: int) -> list[str]:
        return describe_temperature(Temperature(1.0, False, 1.0, 1.0, accuracy, 40), classes)

    assert "warning: only 36 % of the views" in lines(0.36, 4)[1] and "(guessing: 25 %)" in lines(0.36, 4)[1]
    assert "warning" in lines(0.58, 4)[1] and len(lines(0.65, 4)) == len(lines(0.7, 2)[:1]) == 1
    assert lines(1.0, 1) == ["temperature: 1 (one class, which always has a probability of 100 %)"]


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        ("more --recall 0.9 --threshold 3", "--recall and --threshold both set the threshold"),
        ("more --accept 0.1", "--accept needs --strangers"),
        ("more --accept 2 --strangers strangers", "--accept is 2.0: it must be between 0 and 1"),
        ("more --accept 0.1 --strangers strangers --recall 0.9", "--accept needs --strangers, without --recall"),
        ("--per_class", "--per_class needs ID images"),
        ("more --per_class --threshold 1", "--per_class needs ID images, and --recall"),
        ("--memory", "--memory needs ID images"),
        ("more --threshold nan", "--threshold is nan"),
        ("more --strangers nowhere", "no file or folder nowhere"),
    ],
)
def test_options_that_contradict_each_other(words: str, piece: str, at_home: Path) -> None:
    refused(clipos("calibrate", "last.ckpt", *words.split()), piece)


def test_a_memory_needs_a_score_that_compares_with_images(tiny_folder: Path, at_home: Path) -> None:
    data = ("--data.root", tiny_folder, "--data.id", "folder:photos", "--data.ood_sets", "[]")
    fit = done("fit", "--config", "demo.yaml", *data, "--trainer.max_steps", 1)
    run = clipos("calibrate", fit.checkpoint, "more", "--memory", "--root", tiny_folder, "--num_workers", 0)
    refused(run, "the score energy_region compares with no images: fit with --model.score mahalanobis or knn")
