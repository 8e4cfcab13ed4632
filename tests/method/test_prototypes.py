"""Class names without meaning: the image weight is chosen on views, recorded and reported."""

import json

import pytest
import torch
import torch.nn.functional as F
from running import done

from clipos_lightning.data.scenes import ID_SHAPES
from clipos_lightning.detector.detector import Detector
from clipos_lightning.evaluation.heads import PART_PREFIXES
from clipos_lightning.evaluation.metrics import auroc
from clipos_lightning.method.image_weight import WEIGHTS, best_weight, choose_weight, measure_weights
from clipos_lightning.method.prototypes import blend, class_means

CODES = ("A12", "B47", "C83", "D05", "E91", "F36", "G74", "H28", "K60", "L19")


def clusters(classes: int, shots: int, views: int, spread: float, seed: int = 0):
    """Views of images of classes around their centres: (N, V, D), labels (N,), centres (C, D)."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(classes, 16, generator=generator) + 0.5, dim=-1)
    labels = torch.arange(classes).repeat_interleave(shots)
    images = centres[labels] + spread * torch.randn(len(labels), 16, generator=generator)
    noise = 0.03 * torch.randn(len(labels), views, 16, generator=generator)
    return F.normalize(images[:, None] + noise, dim=-1), labels, centres


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_text_where_it_knows_the_classes_images_where_it_does_not(shots):
    views, labels, centres = clusters(6, shots, 5, 0.12)
    pseudo_ood = F.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(9)), dim=-1)
    assert choose_weight(views, labels, centres, 30.0).weight == 0.0
    assert choose_weight(views, labels, pseudo_ood, 30.0).weight >= 0.8
    assert choose_weight(views, labels, centres[torch.arange(6).roll(1)], 30.0).weight >= 0.8  # names of other classes


def test_the_quality_of_a_weight_is_that_of_a_plain_loop():
    views, labels, centres = clusters(3, 2, 4, 0.3)
    views, labels = views[:5], labels[:5]  # the last class has a single image
    text, scale = F.normalize(centres + 0.3 * centres.roll(1, 0), dim=-1), 20.0
    measured = measure_weights(views, labels, text, scale)
    assert measured.shape == (len(WEIGHTS), 5, 2)
    place = WEIGHTS.index(0.4)
    for image in range(5):
        own, count = int(labels[image]), int((labels == labels[image]).sum())
        seen = by_loop(views, labels, text, scale, 0.4, image, torch.arange(5))
        left = by_loop(views, labels, text, scale, 0.4, image, torch.tensor([i for i in range(5) if i != image]))
        unseen = (1 / 3, 1 / 2) if count == 1 else left
        expected = [(a + count * b) / (count + 1) for a, b in zip(seen, unseen, strict=True)]
        assert measured[place, image].tolist() == pytest.approx(expected, abs=1e-5), own


def by_loop(views, labels, text, scale, weight, image, members) -> tuple[float, float]:
    """The accuracy of an image's views, and the AUROC of their energies against all views as pseudo-OOD."""
    plain = blend(text, class_means(views[:, 0], labels, 3), weight)
    mine = plain.clone()
    own = labels[image]
    if (labels[members] == own).any():
        mine[own] = blend(text, class_means(views[members, 0], labels[members], 3), weight)[own]
    logits = scale * views[image] @ mine.T
    pseudo_ood = [
        torch.logsumexp(torch.tensor([scale * float(v @ plain[c]) for c in range(3) if c != labels[n]]), 0)
        for n in range(len(labels))
        for v in views[n]
    ]
    area = auroc(torch.logsumexp(logits, 1).numpy(), torch.stack(pseudo_ood).numpy()) / 100
    return float((logits.argmax(1) == own).float().mean()), area


def test_what_text_images_and_the_choice_are_worth():
    views, labels, centres = clusters(4, 3, 2, 0.2)
    text = centres[[0, 1, 3, 2]]  # two names are those of other classes
    choice, measured = choose_weight(views, labels, text, 30.0), measure_weights(views, labels, text, 30.0).mean(1)
    for quality, place in ((choice.text, 0), (choice.images, 10), (choice.chosen, WEIGHTS.index(choice.weight))):
        assert [quality.accuracy, quality.auroc] == pytest.approx(measured[place].tolist())
    assert choice.images.accuracy > choice.text.accuracy


def test_a_blend_must_earn_its_place():
    n = 20
    noise = 0.1 * torch.randn(n, generator=torch.Generator().manual_seed(0))
    flat = torch.stack([0.5 + noise.roll(i) for i in range(11)])  # whatever is best is best by luck
    assert best_weight(flat) in (0.0, 1.0)
    assert best_weight(torch.full((11, n), 0.7)) == 0.0  # equal ends: text
    hill = torch.stack([torch.full((n,), 0.5 + 0.3 * (i == 6) + 0.01 * i) for i in range(11)]) + 0.01 * noise
    assert best_weight(hill) == 0.6


def test_one_class_and_uneven_classes():
    views, labels, centres = clusters(3, 3, 2, 0.2)
    assert choose_weight(views[:1], labels[:1], centres[:1], 30.0).weight == 0.0
    assert (
        choose_weight(views[:4], labels[:4], centres, 30.0).weight in WEIGHTS
    )  # one class has one image, one has none


def test_codes_for_names_from_fit_to_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "codes.yaml").write_text(json.dumps(dict(zip(ID_SHAPES, CODES, strict=True))))
    common = ("--config", "demo.yaml", "--data.class_names", "codes.yaml", "--model.image_weight", "auto")
    fit = done("fit", *common, "--trainer.max_steps", 2)
    assert "image weight 1, chosen on 8 views of 10 few-shot images: text alone" in fit.out
    saved = torch.load(fit.checkpoint, weights_only=True)
    assert saved["clipos"]["image_weight"] == 1.0 and saved["hyper_parameters"]["image_weight"] == "auto"
    limit = ("--data.limit_per_set", 100, "--data.ood_sets", "[noise]")
    test = done("test", "--ckpt_path", fit.checkpoint, *limit)
    report, scores = test.report, test.scores
    assert report["run"]["image_weight"] == 1.0
    assert report["images"]["id"]["accuracy"] == report["id"]["accuracy"] > 60 > 30 > report["text"]["id"]["accuracy"]
    assert {"id", "ood", "average"} <= set(report["text"]) == set(report["images"])
    for prefix in PART_PREFIXES.values():
        assert scores[f"{prefix}id/predicted"].shape == scores[f"{prefix}id/energy"].shape == (100,)
        assert f"{prefix}noise/energy" in scores and not any(key.startswith(f"id/{prefix}") for key in scores)
    assert (scores["images/id/energy"] == scores["id/energy"]).all()
    assert "image weight 1 (ID accuracy / AUROC): text alone" in test.out
    detector = Detector.load(fit.checkpoint, "cpu")
    torch.testing.assert_close(detector.head.class_text, saved["state_dict"]["image_text"])


def test_true_names_keep_their_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = done("fit", "--config", "demo.yaml", "--model.image_weight", "auto", "--trainer.max_steps", 1)
    assert "image weight 0, chosen on 8 views" in fit.out and fit.lines[-2].startswith("next: ")
