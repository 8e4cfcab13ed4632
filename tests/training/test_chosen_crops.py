"""Crops of the few-shot images by their likeness to their class, and their features in the store."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.data.crops import draw_crops
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.method.feature_store import Crops, FeatureStore
from clipos_lightning.method.mask import MaskOptions
from clipos_lightning.method.synthesis import SynthesisOptions
from clipos_lightning.training import shots as shots_module
from clipos_lightning.training.shots import Shots


@pytest.fixture
def few_shot(tiny_folder: Path, tiny_clip: Callable[..., FrozenClip]) -> Callable[..., Shots]:
    """options of the data -> their few-shot images, without a progress bar."""

    def make(**options: Any) -> Shots:
        data = FewShotOOD(str(tiny_folder), "folder:photos", [], num_workers=0, **options)
        data.setup("fit")
        data.image_size = 16
        data.trainer = SimpleNamespace(progress_bar_callback=None)
        return Shots(tiny_clip("plain"), data)

    return make


@pytest.fixture
def class_text(unit: Callable[..., Tensor]) -> Tensor:
    return unit(3, 20, seed=4)


def store(few_shot: Shots, class_text: Tensor, crops: Crops, budget: int = 2**30) -> FeatureStore:
    return few_shot.store(class_text, "none", MaskOptions(), SynthesisOptions(), budget, crops=crops)


def likeness(few_shot: Shots, class_text: Tensor, image: int, count: int) -> list[float]:
    """The cosine of each crop of an image to its class, crop by crop."""
    text = class_text[int(few_shot.data.shot_labels[image])].tolist()
    found = []
    for number in range(count):
        feature = few_shot.backbone.encode_image(draw_crops(few_shot.data, image, [number])).cls[0].tolist()
        found.append(sum(a * b for a, b in zip(feature, text, strict=True)))
    return found


@pytest.mark.parametrize(("inside", "outside"), [(3, 2), (1, 8), (8, 1)])
def test_the_crops_most_and_least_like_the_class(
    inside: int, outside: int, few_shot: Callable[..., Shots], class_text: Tensor
) -> None:
    given = few_shot(shots=2)
    found = given.choose_crops(Crops(9, inside, outside), class_text)
    assert found[0].shape == (6, inside) and found[1].shape == (6, outside)
    for image in range(6):
        values = likeness(given, class_text, image, 9)
        order = sorted(range(9), key=values.__getitem__)
        assert found[0][image].tolist() == order[::-1][:inside]  # the most alike first
        assert found[1][image].tolist() == order[:outside]  # the least alike first


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("views", [1, 3])
def test_rows_have_the_crops_of_their_image(
    views: int, patches: bool, few_shot: Callable[..., Shots], class_text: Tensor
) -> None:
    """Row v N + i has those of image i in every view v; each crop is encoded as it would be alone."""
    given, crops = few_shot(shots=2, views=views), Crops(6, 2, 3, patches=patches)
    rows = torch.arange(6 * views).flip(0)
    features, chosen = store(given, class_text, crops)[rows], given.choose_crops(crops, class_text)
    assert features.inside is not None and features.outside is not None
    for stored, numbers in zip((features.inside, features.outside), chosen, strict=True):
        for place, row in enumerate(rows.tolist()):
            pixels = draw_crops(given.data, row % 6, numbers[row % 6].tolist())
            alone = given.backbone.encode_image(pixels, frozenset(["local"]))
            torch.testing.assert_close(stored[place], alone.path("local") if patches else alone.cls)
    plain = given.backbone.encode_image(given.data.shot_images(rows)).cls
    torch.testing.assert_close(features.cls, plain)
    assert features.patches is None


def test_over_the_budget_they_are_the_same(
    few_shot: Callable[..., Shots], class_text: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shots_module, "ENCODE_BATCH", 2)  # a crop's batch changes nothing
    given, crops = few_shot(shots=2, views=2), Crops(4, 3, 1, patches=True)
    kept, anew = store(given, class_text, crops), store(given, class_text, crops, budget=0)
    assert kept.kept is not None and anew.kept is None
    for rows in (torch.tensor([7]), torch.tensor([11, 0, 0, 5])):
        for name in ("cls", "inside", "outside"):
            torch.testing.assert_close(getattr(anew[rows], name), getattr(kept[rows], name))


def test_the_budget_counts_the_crops(few_shot: Callable[..., Shots], class_text: Tensor) -> None:
    given, crops = few_shot(shots=2), Crops(6, 2, 1, patches=True)
    size = 6 * 4 * 20 * (1 + 3 * 16)  # six images: a class token, and three crops of 16 patches, in fp32
    assert store(given, class_text, crops, size).kept is not None
    assert store(given, class_text, crops, size - 1).kept is None
    assert given.store(class_text, "none", MaskOptions(), SynthesisOptions(), 6 * 4 * 20).kept is not None
