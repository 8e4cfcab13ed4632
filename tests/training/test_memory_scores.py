"""Scores that compare with the few-shot images: from fit over the checkpoint to test, validate, predict and export."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from running import CPU, Run, clipos, done, inside, refused, state_of

from clipos_lightning import ClipOS, ContextOptions, Detector, FewShotOOD, InputError
from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.evaluation.heads import MAX_PATCH_IMAGES, Head
from clipos_lightning.evaluation.memory import Memory, join_memories
from clipos_lightning.evaluation.scores import ScoreOptions
from clipos_lightning.method.mask import MaskOptions, region_feature, relevant_patches
from clipos_lightning.method.prototypes import class_means
from clipos_lightning.training.shots import Shots
from clipos_lightning.types import ImageFeatures

DATA = ("--data.id", "folder:photos", "--data.ood_sets", "[folder:other]", "--data.shots", 2)


@pytest.fixture(scope="module")
def fitted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with inside(tmp_path_factory.mktemp("memory")):
        words = ("--config", "demo.yaml", "--data.root", tiny_folder, *DATA, "--model.score", "mahalanobis")
        yield done("fit", *words, "--trainer.max_steps", 1)


def test_the_checkpoint_keeps_the_features_of_the_shots(fitted: Run, tiny_folder: Path, microclip: FrozenClip) -> None:
    state = state_of(fitted.checkpoint)
    data = FewShotOOD(str(tiny_folder), "folder:photos", [], shots=2)
    data.image_size = 32
    data.setup("fit")
    labels = data.shot_labels
    features = microclip.encode_image(data.shot_images(torch.arange(6)), frozenset({"clip", "vv"}))
    text = microclip.encode_text([f"a photo of a {name}." for name in data.class_names])
    torch.testing.assert_close(state["memory_features"], features.cls)
    assert torch.equal(state["memory_labels"], labels) and len(state["memory_patches"]) == 0
    mask = relevant_patches(features, text, labels, MaskOptions())
    torch.testing.assert_close(state["memory_regions"], region_feature(features.path("vv"), mask))


def test_shots_keep_their_true_classes_and_the_mean_is_over_all_views(tiny_folder: Path, microclip: FrozenClip) -> None:
    data = FewShotOOD(str(tiny_folder), "folder:photos", [], shots=2, views=3)
    data.image_size = 32
    data.setup("fit")
    text = microclip.encode_text([f"a photo of a {name}." for name in reversed(data.class_names)])  # the wrong names
    head = Head("", text, text, 26.0, [], microclip.surgery, MaskOptions(), ScoreOptions())
    shots = Shots(microclip, data)
    memory = shots.memory(head)
    assert torch.equal(memory.labels, data.shot_labels[:6]) and len(memory.features) == 6
    features = microclip.encode_image(data.shot_images(torch.arange(18))).cls
    torch.testing.assert_close(shots.means(3), class_means(features, data.shot_labels, 3))


def test_the_report_has_its_scores_but_not_for_the_zero_shot_detector(fitted: Run, tiny_folder: Path) -> None:
    test = done("test", "--ckpt_path", fitted.checkpoint)
    report, scores = test.report, test.scores
    names = {"knn", "mahalanobis", "knn_region", "mahalanobis_region"}
    assert report["headline"] == "mahalanobis" and names < set(report["average"])
    assert not names & set(report["zero_shot"]["average"])
    detector = Detector.load(fitted.checkpoint, "cpu")
    images = detector.prepare([tiny_folder / "photos/test" / str(path) for path in scores["id/paths"][:3]])
    torch.testing.assert_close(detector.predict(images).score, torch.from_numpy(scores["id/mahalanobis"][:3]).float())
    assert "mahalanobis" in (test.folder / "report.html").read_text()


def test_the_score_may_change_at_test_time_where_the_checkpoint_has_what_it_takes(
    fitted: Run, tiny_folder: Path
) -> None:
    for score in ("energy", "knn_region"):
        assert done("test", "--ckpt_path", fitted.checkpoint, "--model.score", score).report["headline"] == score
    plain = done("fit", "--config", "demo.yaml", "--data.root", tiny_folder, *DATA, "--trainer.max_steps", 1)
    run = clipos("test", "--ckpt_path", plain.checkpoint, "--model.score", "knn", *CPU)
    refused(run, "--model.score knn needs the few-shot images' features: train again with it")
    assert "memory_features" not in state_of(plain.checkpoint)


def test_validate_and_a_test_without_training(fitted: Run, tiny_folder: Path) -> None:
    run = done("validate", "--ckpt_path", fitted.checkpoint)
    assert "val/outliers/auroc" in run.out
    words = ("--config", "own_micro.yaml", "--data.root", tiny_folder, *DATA)
    report = done("test", *words).report
    assert report["headline"] == "mahalanobis" and {"text", "images"} <= set(report)
    assert "knn" not in report["text"]["average"] and "knn" in report["images"]["average"]


def test_an_image_weight_needs_the_shots_whatever_is_reported() -> None:
    words: dict[str, Any] = {"backbone": "MicroCLIP", "context": ContextOptions(words="a photo of a")}
    energy: dict[str, Any] = {"score": "energy", "scores": ["energy"], **words}
    assert ClipOS(["cat", "dog"], image_weight=0.5, **energy).keeps_memory
    assert not ClipOS(["cat", "dog"], **energy).keeps_memory
    model = ClipOS(["cat", "dog"], image_weight=0.5, score="energy", **words)
    assert "knn" in model.scores
    model.shape_memory({})  # a checkpoint without a memory: only scores that need none are left
    assert "knn" not in model.scores and "energy" in model.scores and model.memory is None


def test_a_user_defined_score_may_compare_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "near_parts.py").write_text(
        "from clipos_lightning import Score\n"
        "nearest = Score(lambda z: (z.feature @ z.memory.features.T).amax(-1), memory=True)\n"
        "wrong = Score(lambda z: z.memory.features, memory=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "near_parts", None)
    del sys.modules["near_parts"]
    words = {"backbone": "MicroCLIP", "context": ContextOptions(words="a photo of a")}
    model = ClipOS(["cat", "dog"], score="near_parts.nearest", **words)
    assert model.keeps_memory and {"knn", "near_parts.nearest"} < set(model.scores)
    with pytest.raises(InputError, match="expected one score per item"):
        ClipOS(["cat", "dog"], score="near_parts.wrong", **words)


def test_where_a_single_class_differs(unit) -> None:
    """Each patch's distance to the nearest known patch, by loops."""
    known, patches = unit(5, 4, 8), unit(2, 4, 8, seed=1)
    memory = Memory(known[:, 0], known[:, 0], torch.zeros(5, dtype=torch.long), known.flatten(0, 1))
    found = memory.difference(patches)
    for image, row in zip(patches, found, strict=True):
        for patch, distance in zip(image, row, strict=True):
            assert float(distance) == pytest.approx(
                1 - max(float(patch @ other) for other in known.flatten(0, 1)), abs=1e-6
            )


@pytest.mark.parametrize(("classes", "patches"), [(1, 64), (2, 0)])
def test_patches_are_kept_for_a_single_class(classes: int, patches: int, microclip: FrozenClip) -> None:
    text = microclip.encode_text([f"a photo of a {name}." for name in ("star", "key")[:classes]])
    head = Head("", text, text, 26.0, [], microclip.surgery, MaskOptions(), ScoreOptions())
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    memory = head.remember(microclip.encode_image(images, head.memory_paths))
    assert memory.patches.shape == (patches, 128)
    many = head.remember(microclip.encode_image(images.expand(40, -1, -1, -1), head.memory_paths))
    joined = join_memories([many, memory])  # the patches of the first images only, however many batches there are
    assert joined.features.shape == (41, 128) and joined.patches.shape == (MAX_PATCH_IMAGES * patches, 128)
    head.memory = memory
    maps = head.maps(microclip.encode_image(images, head.map_paths), torch.zeros(1, dtype=torch.long))
    assert (maps.difference is None) == (classes == 2)
    if maps.difference is not None:
        assert float(maps.difference.abs().max()) < 1e-5  # the known image itself


def test_a_memory_has_the_true_classes_or_predicted_ones_without_unknown(unit) -> None:
    """The regions are those of the same classes; "unknown" is nearest here, but no class of an image."""
    features = ImageFeatures(unit(3, 8), unit(3, 9, 8, seed=1), unit(3, 9, 8, seed=2))
    class_text = unit(3, 8, seed=3)
    text = torch.cat([class_text, features.cls.mean(0, keepdim=True) * 2])
    head = Head("", text, class_text, 20.0, [], SurgeryOptions(), MaskOptions(), ScoreOptions())
    predicted = (features.cls @ class_text.T).argmax(1)
    assert torch.equal(head.remember(features).labels, predicted)
    true = (predicted + 1) % 3
    memory = head.remember(features, true)
    expected = region_feature(features.path("vv"), relevant_patches(features, class_text, true, MaskOptions()))
    assert torch.equal(memory.labels, true)
    torch.testing.assert_close(memory.regions, expected)


def test_without_a_mask_a_memory_still_gets_its_patches(microclip: FrozenClip) -> None:
    text, mask = microclip.encode_text(["a photo of a star.", "a photo of a key."]), MaskOptions(kind="none")
    head = Head("", text, text, 26.0, [], microclip.surgery, mask, ScoreOptions())
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert head.remember(microclip.encode_image(images, head.memory_paths)).regions.shape == (2, 128)


def test_a_memory_of_a_single_class_keeps_the_patches_of_the_first_images(unit) -> None:
    count = MAX_PATCH_IMAGES + 2
    features = ImageFeatures(unit(count, 8), unit(count, 4, 8, seed=1), unit(count, 4, 8, seed=2))
    head = Head("", unit(1, 8, seed=3), unit(1, 8, seed=3), 20.0, [], SurgeryOptions(), MaskOptions(), ScoreOptions())
    memory = head.remember(features)
    assert torch.equal(memory.patches, features.path("vv")[:MAX_PATCH_IMAGES].flatten(0, 1))
    assert len(memory.features) == len(memory.regions) == count


def test_a_head_moves_its_memory_too(unit) -> None:
    memory = Memory(unit(4, 8), unit(4, 8), torch.arange(4), unit(2, 8))
    head = Head("", unit(4, 8), unit(4, 8), 20.0, ["knn"], SurgeryOptions(), MaskOptions(), ScoreOptions(), memory)
    moved = head.to(torch.device("meta")).memory
    assert moved is not None and {tensor.device.type for tensor in moved.tensors.values()} == {"meta"}
