"""What a fit says it learned from, what text and images are worth, and when that is near chance."""

import json
import re
from pathlib import Path

import pytest
import torch
from running import PHOTOS, done, save_scene

from clipos_lightning.method.image_weight import WEIGHTS, Quality, WeightChoice, measure_weights, rate_weight
from clipos_lightning.training.notes import describe_choice, describe_quality, describe_shots


def test_a_detector_whose_names_mean_nothing_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for shape, code in zip(PHOTOS, ("A12", "B47", "C83"), strict=True):
        for i in range(6):
            save_scene(tmp_path / "photos" / code / f"{i}.png", shape, i)
    text = done("fit", "--config", "own_micro.yaml", "--model.image_weight", 0, "--trainer.max_steps", 1)
    found = re.search(r"warning: this is close to guessing \((\d+) % in the right class, AUROC (\d+)\)", text.err)
    assert (
        found is not None and int(found[1]) < 56 and int(found[2]) < 67
    )  # a third of the way from a third, and from 50
    assert "--model.image_weight auto" in text.err and "close to guessing" not in text.out
    assert re.search(r"few-shot images before training: \d+ % in the right class, AUROC \d+", text.out)
    assert 'learned from 18 images of 3 classes (6 each): "a photo of a A12.", "a photo of a B47."' in text.out
    auto = done("fit", "--config", "own_micro.yaml", "--trainer.max_steps", 1)
    assert "image weight 1, chosen on 8 views of 18 few-shot images: text alone" in auto.out
    assert "class names and their wordings change nothing" in auto.out and "warning" not in auto.err
    assert "before training" not in auto.out  # said by the line about the chosen weight
    saved = torch.load(auto.checkpoint, weights_only=True)
    assert saved["hyper_parameters"]["image_weight"] == "auto" and json.dumps(saved["clipos"]["image_weight"]) == "1.0"


@pytest.mark.parametrize(
    ("accuracy", "auroc", "classes", "near"),
    [(0.29, 0.22, 4, True), (0.5, 0.5, 2, True), (0.995, 0.93, 4, False), (0.6, 0.7, 10, False), (0.2, 0.5, 10, True)],
)
def test_near_chance(accuracy: float, auroc: float, classes: int, near: bool) -> None:
    quality = Quality(accuracy, auroc, classes)
    assert quality.near_chance == near
    lines = describe_quality(quality, weight=0.0)
    assert (len(lines) == 2) == near and lines[0].endswith("(AUROC: against left-out classes)")
    assert all("try --model.image_weight auto" in line for line in lines[1:])
    assert all("image_weight auto" not in line for line in describe_quality(quality, weight=0.5))


def test_what_a_choice_says() -> None:
    text, images, both = Quality(0.9, 0.8, 3), Quality(0.7, 0.6, 3), Quality(0.95, 0.9, 3)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    (line,) = describe_choice(WeightChoice(0.3, text, images, both), labels)
    assert "text alone 90 % in the right class, AUROC 80; images alone 70 %" in line and "blend 95 %" in line
    (line,) = describe_choice(WeightChoice(0.0, text, images, text), labels)
    assert line.startswith("image weight 0, ") and "blend" not in line
    lines = describe_choice(WeightChoice(1.0, text, images, images), labels[1:])
    assert "one image has no held-out image" in lines[1] and "change nothing" in lines[2]


def test_many_classes_are_shortened() -> None:
    line = describe_shots([[f"a {n}."] for n in range(9)], torch.arange(9).repeat(2))
    assert line == 'learned from 18 images of 9 classes (2 each): "a 0.", "a 1.", "a 2.", "a 3.", "a 4.", …'
    assert describe_shots([[f"a {n}."] for n in range(5)], torch.arange(5)).endswith(' "a 3.", "a 4."')


def test_the_quality_of_a_fixed_weight(unit) -> None:
    """On images: argmax accuracy of the text, and their energies against those without their own class, by loops."""
    images, text, labels = unit(5, 8), unit(3, 8, seed=1), torch.tensor([0, 1, 2, 0, 1])
    quality = rate_weight(images, labels, text, 10.0, weight=0.0)
    logits = 10 * images @ text.T
    assert quality.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    pseudo = [torch.cat([row[:c], row[c + 1 :]]).logsumexp(0) for row, c in zip(logits, labels.tolist(), strict=True)]
    wins = [float(e > p) for e in logits.logsumexp(1) for p in pseudo]
    assert quality.auroc == pytest.approx(sum(wins) / len(wins), abs=1e-6)
    half = measure_weights(images[:, None], labels, text, 10.0)[WEIGHTS.index(0.5)].mean(0).tolist()
    mixed = rate_weight(images, labels, text, 10.0, weight=0.5)
    assert [mixed.accuracy, mixed.auroc] == pytest.approx(half) and mixed != quality
