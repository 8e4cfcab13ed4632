"""The maps and masks of the mask study against plain loops, and the class of each patch against one class at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clipos_lightning.experiments.map_kinds import MAP_KINDS, FrozenText, LabelMap, frozen_maps, surgery_maps
from clipos_lightning.method.background_mask import background_map, background_patches
from clipos_lightning.method.mask import MaskOptions, distinct_text, min_max, similarity_map, surgery_map
from clipos_lightning.types import ImageFeatures

LABELS, SCALE = torch.tensor([4, 0, 2]), 7.0


@pytest.fixture
def features(unit: Callable[..., Tensor]) -> ImageFeatures:
    """B=3, P=9, D=8, all paths."""
    maps = [unit(3, 9, seed=seed).abs() for seed in (4, 5)]
    patches = [unit(3, 9, 8, seed=seed) for seed in (1, 2, 6)]
    return ImageFeatures(unit(3, 8), *patches, *maps)


@pytest.fixture
def text(unit: Callable[..., Tensor]) -> FrozenText:
    return FrozenText(unit(5, 8, seed=3), {"mambo": unit(8, seed=7), "mambo_unknown": unit(8, seed=8)}, SCALE)


@pytest.mark.parametrize("feature_surgery", [False, True])
def test_the_class_of_a_patch_is_that_of_the_largest_value(
    features: ImageFeatures, text: FrozenText, feature_surgery: bool
) -> None:
    classes, options = text.classes, MaskOptions(feature_surgery=feature_surgery)
    values: dict[str, list[Tensor]] = {name: [] for name in ("clip", "locoop", "s", "delta")}
    for c in range(5):
        labels = torch.full((3,), c)
        own = distinct_text(features.cls, classes, labels) if feature_surgery else classes[labels]
        for name, path in (("clip", "clip"), ("locoop", "local")):
            values[name].append(torch.einsum("bpd,d->bp", features.path(path), classes[c]))
        values["s"].append(torch.einsum("bpd,bd->bp", features.path("vv"), own))
        maps = surgery_maps(features, classes, labels, options)
        clip = similarity_map(features.path("clip"), classes[labels])
        assert torch.equal(maps["s"].values, surgery_map(features, classes, labels, options))
        assert torch.equal(maps["delta"].values, maps["s"].values - clip)
        assert torch.equal(maps["s"].mask, maps["s"].values > 0.5)
        assert torch.equal(maps["delta"].mask, maps["delta"].values > 0)
        values["delta"].append(maps["delta"].values)
    found = frozen_maps(features, text, LABELS, 0.4) | surgery_maps(features, classes, LABELS, options)
    assert set(found) == set(MAP_KINDS)
    assert {name: classes_of(map_).tolist() for name, map_ in found.items() if name in values} == {
        name: torch.stack(per_class, 2).argmax(2).tolist() for name, per_class in values.items()
    }


def classes_of(found: LabelMap) -> Tensor:
    assert found.classes is not None
    return found.classes


def test_locoops_mask_is_the_rank_of_the_label(features: ImageFeatures, text: FrozenText) -> None:
    local, expected = features.path("local").double(), []
    for image, label in zip(local, LABELS.tolist(), strict=True):
        cosines = [[float(patch @ t) for t in text.classes.double()] for patch in image]
        expected.append([label in sorted(range(5), key=lambda c: -row[c])[:2] for row in cosines])
    found = frozen_maps(features, text, LABELS, 0.4)["locoop"]  # K = 2 of 5 classes
    assert found.mask.tolist() == expected
    assert torch.equal(found.values, similarity_map(features.path("local"), text.classes[LABELS]))


@pytest.mark.parametrize("name", ["mambo", "mambo_unknown"])
def test_mambos_mask_is_all_but_the_background(features: ImageFeatures, text: FrozenText, name: str) -> None:
    p = torch.stack([(SCALE * text.classes @ f).softmax(0)[y] for f, y in zip(features.cls, LABELS, strict=True)])
    given = features.path("local"), text.classes, text.backgrounds[name], LABELS, p
    found = frozen_maps(features, text, LABELS, 0.4)[name]
    assert found.mask.tolist() == (~background_patches(*given)).tolist()
    torch.testing.assert_close(found.values, min_max(-background_map(*given)), rtol=0, atol=1e-5)
    assert found.classes is None
    for values, mask in zip(found.values, found.mask, strict=True):
        assert values[mask].min() > values[~mask].max()  # higher inside the mask


def test_attention_is_scaled_and_cut_in_the_middle(features: ImageFeatures, text: FrozenText) -> None:
    maps = frozen_maps(features, text, LABELS, 0.4)
    for name, attention in (("fobor", features.attention), ("attention", features.class_attention)):
        assert attention is not None
        for values, mask, row in zip(maps[name].values, maps[name].mask, attention, strict=True):
            scaled = [float((a - row.min()) / (row.max() - row.min())) for a in row]
            assert values.tolist() == pytest.approx(scaled, abs=1e-6)
            assert mask.tolist() == [a > 0.5 for a in scaled]
