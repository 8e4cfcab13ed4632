"""Similarity maps and each kind of mask against plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.data.scenes import ID_SHAPES, render
from clipos_lightning.errors import InputError
from clipos_lightning.method.mask import (
    MaskOptions,
    class_weights,
    discrepancy,
    min_max,
    region_feature,
    relevance_map,
    relevant_patches,
    similarity_map,
    surgery_map,
    top_k_count,
)
from clipos_lightning.types import ImageFeatures


def min_max_by_hand(row: list[float]) -> list[float]:
    low, high = min(row), max(row)
    return [0.0 if high - low < 1e-6 else (x - low) / (high - low) for x in row]


def test_min_max_is_per_image_and_a_constant_map_is_zero():
    maps = torch.randn(3, 7, generator=torch.Generator().manual_seed(2))
    maps = torch.cat([maps, torch.full((1, 7), 0.3), 0.3 + 5e-7 * torch.rand(1, 7), 1e-3 * maps[:1]])
    expected = torch.tensor([min_max_by_hand(row) for row in maps.tolist()])
    torch.testing.assert_close(min_max(maps), expected, rtol=0, atol=1e-5)
    assert not min_max(maps)[3:5].any()
    assert (min_max(maps)[5].min(), min_max(maps)[5].max()) == (0, 1)


@pytest.fixture
def case(unit):
    """Features of both paths (B=4, P=9, D=8), class prompts (C=5), labels."""
    features = ImageFeatures(unit(4, 8), patches=unit(4, 9, 8, seed=1), patches_vv=unit(4, 9, 8, seed=2))
    return features, unit(5, 8, seed=3), torch.tensor([4, 0, 2, 0])


def maps_by_hand(patches: torch.Tensor, text: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    rows = []
    for image, label in zip(patches, labels, strict=True):
        rows.append(min_max_by_hand([float(sum(a * b for a, b in zip(p, text[label], strict=True))) for p in image]))
    return torch.tensor(rows)


def test_similarity_maps_and_discrepancy(case):
    features, text, labels = case
    s, s_clip = (maps_by_hand(p, text, labels) for p in (features.patches_vv, features.patches))
    torch.testing.assert_close(similarity_map(features.patches, text[labels]), s_clip, rtol=0, atol=1e-5)
    torch.testing.assert_close(surgery_map(features, text, labels, MaskOptions()), s, rtol=0, atol=1e-5)
    torch.testing.assert_close(discrepancy(features, text, labels, MaskOptions()), s - s_clip, rtol=0, atol=1e-5)


def feature_surgery_by_hand(cls: torch.Tensor, patches: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The similarity of every patch and class, (B, P, C), in double precision: a sum over the dimensions, as Li et al.

    For each dimension d: w_c f_pd t_cd minus its mean over the classes.
    """
    classes, dim = text.shape
    rows = []
    for f, image in zip(cls.double().tolist(), patches.double().tolist(), strict=True):
        texts = text.double().tolist()
        exponentials = [math.exp(2 * sum(a * b for a, b in zip(f, t, strict=True))) for t in texts]
        probabilities = [e / sum(exponentials) for e in exponentials]
        weights = [p / (sum(probabilities) / classes) for p in probabilities]
        row = []
        for patch in image:
            products = [[w * patch[d] * t[d] for d in range(dim)] for w, t in zip(weights, texts, strict=True)]
            means = [sum(product[d] for product in products) / classes for d in range(dim)]
            row.append([sum(product[d] - means[d] for d in range(dim)) for product in products])
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def test_feature_surgery_is_that_of_a_loop_over_patches_classes_and_dimensions(case):
    features, text, labels = case
    similarity = feature_surgery_by_hand(features.cls, features.patches_vv, text)
    picked = [row[:, label].tolist() for row, label in zip(similarity, labels, strict=True)]
    s = torch.tensor([min_max_by_hand(row) for row in picked])
    s_clip = maps_by_hand(features.patches, text, labels)
    options = {kind: MaskOptions(kind, feature_surgery=True) for kind in ("surgery", "discrepancy")}
    torch.testing.assert_close(surgery_map(features, text, labels, options["surgery"]), s, rtol=0, atol=1e-5)
    for kind, expected in (("surgery", s), ("discrepancy", s - s_clip)):  # S_clip stays plain CLIP's
        found = relevance_map(features, text, labels, options[kind])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        mask = relevant_patches(features, text, labels, options[kind])
        assert mask.tolist() == (expected > (0.5 if kind == "surgery" else 0)).tolist()
        assert mask.tolist() != relevant_patches(features, text, labels, MaskOptions(kind)).tolist()
    torch.testing.assert_close(class_weights(features.cls, text).mean(1), torch.ones(4))


def test_feature_surgery_makes_the_maps_of_different_classes_different(microclip):
    """The authors' claim, with v-v attention in all blocks: 0.4 to 0.5 without it, about 0 with it."""
    surgery = SurgeryOptions(depth=6, context_on="off")
    images = torch.stack([torch.from_numpy(render("id", "tune", 0, i).image).permute(2, 0, 1) for i in range(20)])
    features = microclip.encode_surgeries(images, frozenset({"vv"}), [surgery])[surgery]
    text = microclip.encode_text([f"a photo of a {shape}." for shape in ID_SHAPES])

    def correlation(options: MaskOptions) -> float:
        maps = [surgery_map(features, text, torch.full((20,), c), options) for c in range(len(text))]
        centred = torch.stack([F.normalize(values - values.mean(1, keepdim=True), dim=1) for values in maps], 1)
        pairs = torch.ones(len(text), len(text)).triu(1).bool()
        return float((centred @ centred.transpose(1, 2))[:, pairs].mean())

    assert correlation(MaskOptions()) > 0.3
    assert correlation(MaskOptions(feature_surgery=True)) < 0.1


def test_feature_surgery_needs_several_classes(case):
    features, text, _ = case
    first = torch.zeros(4, dtype=torch.long)
    with pytest.raises(InputError, match=r"--model\.mask\.feature_surgery .* there is one class"):
        relevant_patches(features, text[:1], first, MaskOptions(feature_surgery=True))
    assert relevant_patches(features, text[:1], first, MaskOptions()).any(1).all()
    assert relevant_patches(features, text[:2], first, MaskOptions(feature_surgery=True)).any(1).all()


@pytest.mark.parametrize("threshold", [None, -0.2, 0.3])
@pytest.mark.parametrize("kind", ["discrepancy", "surgery", "clip"])
def test_masks_of_maps(case, kind, threshold):
    features, text, labels = case
    s, s_clip = (maps_by_hand(p, text, labels) for p in (features.patches_vv, features.patches))
    relevance = {"discrepancy": s - s_clip, "surgery": s, "clip": s_clip}[kind]
    default = 0.0 if kind == "discrepancy" else 0.5
    expected = relevance > (default if threshold is None else threshold)
    assert expected.any(1).all()
    mask = relevant_patches(features, text, labels, MaskOptions(kind, threshold))
    assert mask.tolist() == expected.tolist()


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.4, 1.0])
def test_top_k_mask_keeps_patches_whose_top_classes_hold_the_label(case, fraction):
    features, text, labels = case
    k = max(1, round(fraction * len(text)))
    mask = relevant_patches(features, text, labels, MaskOptions("top_k", top_k=fraction))
    for b, label in enumerate(labels.tolist()):
        ranks = []
        for patch in features.patches_vv[b]:
            order = sorted(range(len(text)), key=lambda c: -float(patch @ text[c]))
            ranks.append(order.index(label))
        expected = [rank < k for rank in ranks]
        if not any(expected):
            expected[ranks.index(min(ranks))] = True
        assert mask[b].tolist() == expected


@pytest.mark.parametrize(
    ("classes", "fraction", "count"),
    [(10, 0.2, 2), (7, 0.2, 1), (8, 0.2, 2), (1000, 0.2, 200), (6, 0.45, 3), (6, 0.4, 2), (3, 0.1, 1), (5, 1.0, 5)],
)
def test_top_k_is_the_nearest_number_of_classes_and_at_least_one(classes, fraction, count):
    assert top_k_count(classes, fraction) == count


@pytest.mark.parametrize("top_k", [0, -0.1, 1.01, math.nan])
def test_a_fraction_of_the_classes_outside_0_to_1_is_refused(top_k):
    with pytest.raises(InputError, match=rf"--model\.mask\.top_k is {top_k}:"):
        MaskOptions("top_k", top_k=top_k)


@pytest.mark.parametrize("kind", ["top_k", "none"])
def test_a_threshold_of_a_mask_that_has_none_is_refused(kind):
    with pytest.raises(InputError, match=rf"--model\.mask\.threshold .*{kind}"):
        MaskOptions(kind, threshold=0.1)


@pytest.mark.parametrize("kind", ["top_k", "clip", "none"])
def test_feature_surgery_of_a_mask_without_the_surgery_map_is_refused(kind):
    with pytest.raises(InputError, match=rf"--model\.mask\.feature_surgery .*{kind}"):
        MaskOptions(kind, feature_surgery=True)


def test_the_mask_that_masks_nothing(case):
    features, text, labels = case
    for part in (features, ImageFeatures(features.cls, patches=features.patches)):
        mask = relevant_patches(part, text, labels, MaskOptions("none"))
        assert mask.shape == (4, 9)
        assert mask.all()


@pytest.mark.parametrize("kind", ["discrepancy", "surgery", "clip"])
def test_the_best_patch_is_always_relevant_and_alone_above_any_threshold(case, kind):
    features, text, labels = case
    s, s_clip = (maps_by_hand(p, text, labels) for p in (features.patches_vv, features.patches))
    best = {"discrepancy": s - s_clip, "surgery": s, "clip": s_clip}[kind].argmax(1)
    mask = relevant_patches(features, text, labels, MaskOptions(kind, threshold=1.5))
    assert mask.nonzero().tolist() == [[b, int(p)] for b, p in enumerate(best)]
    flat = features.map(lambda t: t[:, :1].expand_as(t) if t.ndim == 3 else t)  # constant maps
    assert relevant_patches(flat, text, labels, MaskOptions(kind)).sum(1).tolist() == [1] * 4


@pytest.mark.parametrize("kind", ["discrepancy", "top_k", "surgery", "clip"])
def test_a_mask_looks_at_the_paths_that_it_names(case, kind):
    features, text, labels = case
    options = MaskOptions(kind)
    given = {"clip": {"patches": features.patches}, "vv": {"patches_vv": features.patches_vv}}
    only = ImageFeatures(features.cls, **{k: v for path in options.paths for k, v in given[path].items()})
    full, part = (relevant_patches(f, text, labels, options) for f in (features, only))
    assert full.tolist() == part.tolist()
    with pytest.raises(ValueError, match="were not computed"):
        relevant_patches(ImageFeatures(features.cls), text, labels, options)


def test_region_feature_is_the_normalised_sum_of_the_chosen_patches(unit):
    patches, mask = unit(2, 3, 4), torch.tensor([[True, False, True], [False, True, False]])
    both = patches[0, 0] + patches[0, 2]
    expected = torch.stack([both / both.norm(), patches[1, 1]])
    torch.testing.assert_close(region_feature(patches, mask), expected, rtol=0, atol=1e-6)
