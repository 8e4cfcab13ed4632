"""The metrics of maps: per image, with a class for each patch or without."""

import numpy as np
import pytest
import torch

from clipos_lightning.evaluation.metrics import boundary_f, mask_iou
from clipos_lightning.experiments.map_kinds import LabelMap
from clipos_lightning.experiments.masks import MapMetrics

TRUTH = torch.zeros(3, 4, 4, dtype=torch.bool)
TRUTH[0, 1:3, 1:3], TRUTH[2, 0] = True, True  # the second image's object covers no patch
LABELS = torch.tensor([2, 0, 1])


def random_map(classes: bool) -> LabelMap:
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(3, 16, generator=generator)
    own = torch.randint(3, (3, 16), generator=generator) if classes else None
    return LabelMap(values, values > 0.4, own)


def test_metrics_of_each_image_with_an_object() -> None:
    found, metrics = random_map(classes=True), MapMetrics()
    metrics.add(found, LABELS, TRUTH)
    assert found.classes is not None
    ious, edges, hits, correct, total = [], [], [], 0, 0
    for i in (0, 2):
        mask, truth = found.mask[i].reshape(4, 4).numpy(), TRUTH[i].numpy()
        ious.append(mask_iou(mask, truth))
        edges.append(boundary_f(mask, truth))
        best = max(range(16), key=lambda p: float(found.values[i, p]))
        hits.append(bool(truth[best // 4, best % 4]))
        correct += sum(int(found.classes[i, p]) == LABELS[i] for p in range(16) if truth[p // 4, p % 4])
        total += int(truth.sum())
    expected = {"iou": np.mean(ious), "boundary_f": np.mean(edges), "pointing": np.mean(hits)}
    assert metrics.summary() == pytest.approx(expected | {"patch_accuracy": int(correct) / total})


def test_maps_without_classes_have_no_patch_accuracy_and_no_images_no_metrics() -> None:
    metrics = MapMetrics()
    assert metrics.summary() == {}
    metrics.add(random_map(classes=False), LABELS[1:2].expand(3), torch.zeros_like(TRUTH))
    assert metrics.summary() == {}
    metrics.add(random_map(classes=False), LABELS, TRUTH)
    assert set(metrics.summary()) == {"iou", "boundary_f", "pointing"}
