"""The maps of the mask study, and the class of each patch, against one class at a time."""

from collections.abc import Callable

import pytest
import torch

from clipos_lightning.experiments.masks import label_maps, patch_classes
from clipos_lightning.method.mask import MaskOptions, distinct_text, similarity_map, surgery_map
from clipos_lightning.types import ImageFeatures


@pytest.mark.parametrize("feature_surgery", [False, True])
def test_the_class_of_a_patch_is_that_of_the_largest_value(
    unit: Callable[..., torch.Tensor], feature_surgery: bool
) -> None:
    features = ImageFeatures(unit(3, 8), patches=unit(3, 9, 8, seed=1), patches_vv=unit(3, 9, 8, seed=2))
    text, options = unit(5, 8, seed=3), MaskOptions(feature_surgery=feature_surgery)
    values: dict[str, list[torch.Tensor]] = {"clip": [], "s": [], "delta": []}
    for c in range(5):
        labels = torch.full((3,), c)
        own = distinct_text(features.cls, text, labels) if feature_surgery else text[labels]
        values["clip"].append(torch.einsum("bpd,d->bp", features.path("clip"), text[c]))
        values["s"].append(torch.einsum("bpd,bd->bp", features.path("vv"), own))
        maps = label_maps(features, text, labels, options)
        assert torch.equal(maps["s"], surgery_map(features, text, labels, options))
        assert torch.equal(maps["clip"], similarity_map(features.path("clip"), text[labels]))
        assert torch.equal(maps["delta"], maps["s"] - maps["clip"])
        values["delta"].append(maps["delta"])
    found = patch_classes(features, text, options)
    assert {name: classes.tolist() for name, classes in found.items()} == {
        name: torch.stack(per_class, 2).argmax(2).tolist() for name, per_class in values.items()
    }
