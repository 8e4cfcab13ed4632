"""A single class: fit, test, calibrate, predict and explain, by images and by words; what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from running import clipos, done, refused, save_noise, save_scene

from clipos_lightning import ClipOS, ContextOptions, Detector, InputError
from clipos_lightning.method.prompts import NEUTRAL, neutral_prompts


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """good/train/star/ to learn from, good/test/star/ and noise/ to test on, more/ to calibrate with."""
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        save_scene(tmp_path / f"good/train/star/{i}.png", "star", i)
        save_scene(tmp_path / f"good/test/star/{i}.png", "star", 50 + i)
    for i in range(20):
        save_scene(tmp_path / f"more/{i}.png", "star", 100 + i)
        save_noise(tmp_path / f"noise/{i}.png", i)
    return tmp_path


def test_from_fit_to_explain(good: Path) -> None:
    data = ("--data.id", "folder:good", "--data.ood_sets", "[folder:noise]")
    fit = done("fit", "--config", "own_micro.yaml", *data)
    assert "one class: nothing can be mixed or contrasted, so no prompt is learned" in fit.out
    assert 'learned from 4 images of 1 class (4 each): "a photo of a star."' in fit.out
    state = torch.load(fit.checkpoint, weights_only=True)
    assert state["clipos"]["image_weight"] == 1.0 and state["global_step"] == 0
    test = done("test", "--ckpt_path", fit.checkpoint)
    report = test.report
    assert report["headline"] == "mahalanobis" and report["average"]["mahalanobis"]["auroc"] > 95
    assert report["id"]["accuracy"] == 100 and (test.folder / "report.html").exists()
    calibrated = clipos("calibrate", fit.checkpoint, "more", "--num_workers", 0)
    assert calibrated.code == 0, calibrated.err
    assert "temperature: 1 (one class" in calibrated.out and "warning" not in calibrated.out
    detector = Detector.load("detector.safetensors", "cpu")
    labels = [detector(f"noise/{i}.png").label for i in range(20)]
    assert labels.count("unknown") >= 18 and detector("good/test/star/0.png").class_name == "star"
    explained = clipos("explain", "detector.safetensors", "good/test/star/0.png", "noise/0.png", "--out", "e.png")
    assert explained.code == 0, explained.err
    predicted = clipos("predict", "detector.safetensors", "noise", "--explain", "maps", "--num_workers", 0)
    assert predicted.code == 0 and len(list(Path("maps").rglob("*.png"))) == 20


def test_by_words_the_name_is_compared_with_neutral_prompts(good: Path) -> None:
    words = ("--model.image_weight", 0, "--model.score", "unknown", "--data.ood_sets", "[folder:noise]")
    fit = done("fit", "--config", "own_micro.yaml", "--data.id", "folder:good", *words)
    detector = Detector.load(fit.checkpoint, "cpu")
    backbone = detector.backbone
    class_text = backbone.encode_text(["a photo of a star."])
    neutral = torch.nn.functional.normalize(backbone.encode_text(list(NEUTRAL)).mean(0), dim=0)
    torch.testing.assert_close(detector.head.text, torch.cat([class_text, neutral[None]]))
    image = detector.prepare("good/test/star/0.png")
    feature = backbone.encode_image(image).cls[0]
    expected = detector.head.scale * (feature @ class_text[0] - feature @ neutral)
    torch.testing.assert_close(detector.predict(image).score[0], expected)
    assert done("test", "--ckpt_path", fit.checkpoint).report["average"]["unknown"]["auroc"] > 90


def test_neutral_prompts_can_be_chosen() -> None:
    words: dict[str, Any] = {"backbone": "MicroCLIP", "context": ContextOptions(words="a photo of a")}
    model = ClipOS(["star"], zero_shot_unknown=["a texture.", "a letter."], **words)
    text = model.backbone.encode_text(["a texture.", "a letter."]).mean(0)
    torch.testing.assert_close(model.plain_text[1], torch.nn.functional.normalize(text, dim=0))
    several = ClipOS(["star", "key"], **words)
    torch.testing.assert_close(
        several.plain_text[2], several.backbone.encode_text(["a photo of an unknown object."])[0]
    )
    for wrong in ([], ["a star.", " "]):
        with pytest.raises(InputError, match="zero_shot_unknown has no prompt"):
            neutral_prompts(wrong, 2)


def test_nothing_can_be_validated_on_a_single_class(good: Path) -> None:
    words = ("--config", "own_micro.yaml", "--data.id", "folder:good", "--data.shots", 2)
    refused(clipos("validate", *words, "--trainer.accelerator", "cpu", "--data.num_workers", 0), "leave validation out")
    run = clipos("fit", *words, "--data.validate", "true", "--trainer.accelerator", "cpu", "--data.num_workers", 0)
    refused(run, "--data.validate true", "at least two classes")


def test_feature_surgery_has_nothing_to_subtract(good: Path) -> None:
    words = ("fit", "--config", "own_micro.yaml", "--data.id", "folder:good", "--trainer.accelerator", "cpu")
    refused(
        clipos(*words, "--model.mask.feature_surgery", "true"), "--model.mask.feature_surgery", "there is one class"
    )


def test_images_without_a_class_folder_say_what_to_do(good: Path) -> None:
    refused(
        clipos("fit", "--config", "own_micro.yaml", "--data.id", "folder:more"), "put the images of each class into"
    )
