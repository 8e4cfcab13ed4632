"""clipos calibrate: a threshold by other classes, by hand, or for each predicted class; a memory; its warnings."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from running import PHOTOS, Run, clipos, done, inside, refused, save_classes, save_noise, save_scene

from clipos_lightning import Detector, InputError
from clipos_lightning.cli.calibrate import accepted, calibrate_parser, describe_others, set_class_thresholds
from clipos_lightning.cli.calibration_images import ScoredImages, score_paths, split_for_memory
from clipos_lightning.cli.calibration_lines import describe_classes, describe_stranger_point, describe_temperature
from clipos_lightning.cli.inference import parse_arguments
from clipos_lightning.evaluation.calibration import (
    Temperature,
    conformal_point,
    conformal_rank,
    smallest_n,
    stranger_point,
)
from clipos_lightning.evaluation.memory import Memory

QUIET = ("--num_workers", 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/<class>/ to learn from, more/<class>/ to calibrate with, strangers/ of noise; a detector with a memory."""
    root = tmp_path_factory.mktemp("home")
    save_classes(root / "photos", 3)
    save_classes(root / "more", 24, first=100)
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


def test_a_detectors_file_calibrated_anew_by_strangers_keeps_no_former_threshold(at_home: Path) -> None:
    calibrate("more", "--recall", 0.9, "--per_class", "--out", "a.safetensors")
    words = ("--strangers", "strangers", "--num_workers", 0)
    run = clipos("calibrate", "a.safetensors", *words, "--out", "b.safetensors")
    assert run.code == 0, run.err
    again = Detector.load("b.safetensors", "cpu")
    assert again.class_thresholds is None and again.calibration["accept"] == 0.05  # the default
    assert "accepted of 30 images of other classes: 0.0 %" in run.out
    run = clipos("calibrate", "last.ckpt", "--root", "strangers", *words, "--out", "c.safetensors")
    assert run.code == 0, run.err
    assert "temperature: 1 (the few-shot images are not available" in run.out
    assert Detector.load("c.safetensors", "cpu").threshold == again.threshold


def test_the_fewest_strangers_that_guarantee_the_fraction() -> None:
    enough, few = (
        describe_stranger_point(stranger_point(np.arange(float(n)), 0.05), 0.05, "knn")[-1] for n in (19, 18)
    )
    assert "at most 5 % (1 / 20 = 5.0 %)" in enough and "18 images are too few to guarantee 5 %, which needs 19" in few


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


def test_an_image_is_accepted_by_the_threshold_of_its_predicted_class(at_home: Path) -> None:
    detector = Detector.load("last.ckpt", "cpu")
    detector.threshold, detector.class_thresholds = 0.0, [3.0, 1.0, 2.0]
    images = ScoredImages(np.array([2.0, 2.0, 2.0, 1.0]), np.array([0, 1, 2, 2]), ["a.png"] * 4, np.zeros(4, bool))
    assert accepted(detector, images).tolist() == [False, True, True, False]


def test_as_many_images_as_the_recall_needs_are_enough_for_a_class(at_home: Path) -> None:
    detector = Detector.load("last.ckpt", "cpu")
    detector.threshold = -1.0
    images = ScoredImages(np.arange(17.0), np.repeat([0, 1], [smallest_n(0.9), 8]), ["a.png"] * 17, np.zeros(17, bool))
    lines = set_class_thresholds(detector, images, 0.9, guaranteed=True)
    assert detector.class_thresholds == [0.0, -1.0, -1.0] and "fewer than 9 images were predicted as" in lines[-1]


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
    accepted[:13] = True  # 93 %: within two standard errors
    assert "--per_class" not in describe_classes(["breast", "chest"], labels, labels, accepted, 0.95)[-1]
    accepted[:15] = True
    assert "--per_class" not in describe_classes(["breast", "chest"], labels, labels, accepted, 0.95)[-1]
    assert describe_classes(["breast", "chest"], labels - 9, labels, accepted, 0.95) == []
    one = describe_classes(["breast"], labels[:20], labels[:20], np.arange(20) < 5, 0.95)  # by class changes nothing
    assert one[-1] == "  breast: 25.0 % of 20 accepted"


def test_a_threshold_by_hand_promises_no_class_anything_and_any_name_of_a_class_counts(at_home: Path) -> None:
    detector = Detector.load("last.ckpt", "cpu")
    detector.threshold = 0.5
    detector.class_wordings = [{"names": ["ring", "big circle"]}, {"names": ["heart"]}, {"names": ["star"]}]
    paths = ["more/big_circle/0.png"] * 50 + ["more/heart/0.png"] * 50
    images = ScoredImages(np.repeat([0.0, 1.0], 50), np.repeat([0, 1], 50), paths, np.zeros(100, bool))
    by_hand, by_recall = (describe_others(detector, how, 0.9, images, None, None) for how in ("threshold", "recall"))
    assert "by class (100 images in folders named like a class): 100.0 % in the right class" in by_hand
    assert "--per_class" in by_recall[-1] and not any("--per_class" in line for line in by_hand)


def test_an_image_counts_once(at_home: Path) -> None:
    run = calibrate("more", "more", *sorted(Path("more/star").glob("*.png"))[:3])
    assert "of 72 ID images" in run.out
    words = ("calibrate", "last.ckpt", "more", "--strangers", "strangers", "more/star", "--out", "b.safetensors")
    refused(clipos(*words, *QUIET), "24 images are among the ID images and --strangers")


def test_many_unreadable_images_are_counted(at_home: Path, tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(b"broken")
    run = calibrate("more", tmp_path)
    lines = [line for line in run.err.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 6 and lines[-1] == "left out: 3 more images that cannot be read"


def test_labels_from_folders() -> None:
    images = ScoredImages(
        np.zeros(3), np.zeros(3, dtype=np.int64), ["m/Polar_Bear/1.png", "m/2.png", "m/lynx/3.png"], np.zeros(3, bool)
    )
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


def test_remembered_images_set_no_threshold_without_a_warning(at_home: Path) -> None:
    """A detector that remembers images is calibrated again with the same ones: they score higher than new ones."""
    calibrate("more", "--memory", "--recall", 0.9)
    run = clipos("calibrate", "detector.safetensors", "more", "--out", "b.safetensors", "--num_workers", 0)
    assert run.code == 0, run.err
    assert "warning: the detector was trained on, or remembers, 36 of these 72 images" in run.out
    assert "guaranteed" not in Detector.load("b.safetensors", "cpu").calibration["point"]
    words = ("more", "--per_class", "--recall", 0.8, "--out", "d.safetensors", *QUIET)
    by_class = clipos("calibrate", "detector.safetensors", *words)
    assert "thresholds by predicted class: 3 of 3" in by_class.out and "Mondrian" not in by_class.out
    again = clipos("calibrate", "detector.safetensors", "more", "--memory", "--out", "c.safetensors", *QUIET)
    assert again.code == 0 and "memory: 0 ID images" in again.out and "warning" not in again.out
    first, second = Detector.load("detector.safetensors", "cpu"), Detector.load("c.safetensors", "cpu")
    assert first.head.memory is not None and second.head.memory is not None
    assert len(first.head.memory.labels) == len(second.head.memory.labels) == 45


def test_an_image_is_never_on_both_sides(at_home: Path) -> None:
    link = at_home / "again"
    if not link.exists():
        link.symlink_to(at_home / "more")
    first, second = split_for_memory(["more", "again", "more/star"])
    assert len(first) + len(second) == 72
    for part, plain in zip((first, second), split_for_memory(["more/star", "more/heart", "more/circle"]), strict=True):
        assert [Path(path).resolve() for path in part] == [Path(path).resolve() for path in plain]
    with pytest.raises(InputError, match="--memory splits the images in two halves"):
        split_for_memory(["more/star/1.png"])


def test_the_halves_depend_on_relative_paths_and_few_are_remembered(
    at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = split_for_memory(["more"])
    with monkeypatch.context() as smaller:
        smaller.setattr("clipos_lightning.cli.calibration_images.MAX_MEMORY", 5)
        assert [len(part) for part in split_for_memory(["more"])] == [5, 67]
    shutil.copytree("more", tmp_path / "more")
    monkeypatch.chdir(tmp_path)
    assert split_for_memory(["more"]) == halves


def test_broken_images_are_in_neither_half(at_home: Path, tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_text("no image")
    run = clipos("calibrate", "last.ckpt", tmp_path, "--memory", "--num_workers", 0)
    assert run.code == 2 and "none of the images for --memory can be read" in run.err and "Traceback" not in run.err
    save_scene(tmp_path / "star/2.png", "star", 7)
    given = parse_arguments(calibrate_parser(), ["last.ckpt", "--num_workers", "0"])
    detector = Detector.load("last.ckpt", "cpu")
    assert score_paths(detector, [str(tmp_path)], given, "images").paths == [str(tmp_path / "star/2.png")]
    assert detector.head.memory is not None
    detector.head = replace(detector.head, memory=replace(detector.head.memory, features=torch.full((9, 128), np.nan)))
    with pytest.raises(InputError, match="mahalanobis is not finite for all images"):
        score_paths(detector, [str(tmp_path)], given, "images")


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
