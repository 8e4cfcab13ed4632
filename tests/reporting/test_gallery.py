"""Images selected for the report, on a hand-made test: the worst mistakes in order, and only mistakes."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.image_sets import ArraySet
from clipos_lightning.data.preprocessing import Preprocessing
from clipos_lightning.reporting import gallery
from clipos_lightning.training.module import ClipOS

NAMES = ["cat", "dog", "fox"]
PROBABILITIES = [0.5, 0.3, 0.2]


def detector(id_scores: np.ndarray, predicted: list[int], **outside: list[float]) -> Any:
    """Stub of a tested module with what the gallery reads."""
    results = {"id": {"s": np.array(id_scores, float), "predicted": np.array(predicted, float)}}
    results |= {n: {"s": np.array(s, float), "predicted": np.zeros(len(s))} for n, s in outside.items()}

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([PROBABILITIES[: int(max(predicted)) + 1]]).expand(len(images), -1)

    def maps(images: torch.Tensor, labels: torch.Tensor) -> Any:
        values = torch.rand(len(images), 16)
        return SimpleNamespace(surgery=values, clip=values, mask=values > 0.5)

    head = SimpleNamespace(map_paths=frozenset(), probabilities=probabilities, maps=maps)
    backbone = SimpleNamespace(grid=(4, 4), encode_image=lambda images, paths: images)
    return Mock(ClipOS, results=results, score="s", backbone=backbone, device="cpu", detector_head=head)


def data_of(labels: list[int], module: Any, positions: list[int] | None = None) -> Any:
    """Its data: image i is filled with i."""
    tests = {}
    for name, table in module.results.items():
        chosen = positions if name == "id" and positions else range(len(table["s"]))
        count = max(chosen) + 1
        images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
        ids = np.zeros(count, np.int64)
        if name == "id":
            ids[sorted(chosen)] = labels
        tests[name] = (ArraySet(name, images, ids if name == "id" else None), list(chosen))
    return Mock(FewShotOOD, test_sets=tests, preprocessing=Preprocessing(8), class_names=NAMES)


def test_the_worst_mistakes_come_first() -> None:
    """20 ID images, scores 0 … 19: the threshold at 95 % recall is 1."""
    labels = [0, 1] * 10
    predicted = list(labels)
    predicted[0], predicted[7], predicted[12] = 2, 2, 2  # the first is rejected, so not confused
    module = detector(np.arange(20), predicted, sky=[0.5, 30.0, 1.0, 7.0], sea=[0.9, -3.0], sun=[8.0])
    found = gallery.draw_pictures(module, data_of(labels, module))
    assert [e.key for e in found["rejected"]] == ["0"]
    assert [e.key for e in found["confused"]] == ["12", "7"]
    outside = [("sky", 30.0), ("sun", 8.0), ("sky", 7.0), ("sky", 1.0), ("sea", 0.9), ("sky", 0.5), ("sea", -3.0)]
    assert [(e.origin, e.score) for e in found["outside"]] == outside
    assert [(e.origin, e.key) for e in found["classes"]] == [("cat", "0"), ("dog", "1")]
    first = found["confused"][0]
    assert (first.origin, first.predicted, first.score) == ("cat", "fox", 12.0)
    assert first.caption == "cat\n→ fox 50 %"
    assert first.image.shape == (8, 8, 3)
    assert (first.image == 12).all()


def test_rows_are_found_where_only_some_images_were_tested() -> None:
    """Positions come in any order; rows are in the order of the set."""
    module = detector(np.array([5.0, 1.0, 3.0]), [0, 1, 2])
    found = gallery.draw_pictures(module, data_of([0, 1, 1], module, positions=[9, 2, 5]))
    assert "outside" not in found
    assert [(e.key, e.origin, e.predicted) for e in found["confused"]] == [("9", "dog", "fox")]
    assert (found["confused"][0].image == 9).all()


@pytest.mark.parametrize("sets", [1, 3, 40])
def test_galleries_are_short(sets: int) -> None:
    scores = {f"set{i}": list(range(100, 150)) for i in range(sets)}
    module = detector(np.arange(400), [2] * 400, **scores)
    found = gallery.draw_pictures(module, data_of([0] * 400, module))
    assert len(found["rejected"]) == len(found["confused"]) == gallery.MAX_PICTURES
    assert 12 <= len(found["outside"]) <= 24


def test_one_class_and_one_ood_set() -> None:
    """Nothing can be confused."""
    module = detector(np.arange(40), [0] * 40, sky=[3.0, 50.0])
    found = gallery.draw_pictures(module, data_of([0] * 40, module))
    assert [e.key for e in found["classes"]] == ["0"] and [e.key for e in found["rejected"]] == ["0", "1"]
    assert found["confused"] == [] and [(e.key, e.predicted) for e in found["outside"]] == [("1", "cat"), ("0", "cat")]
