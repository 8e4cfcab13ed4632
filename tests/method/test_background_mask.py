"""Mambo's background patches against a plain loop, in double precision."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clipos_lightning.method.background_mask import background_map, background_patches

LABELS, P_Y = torch.tensor([4, 0, 2]), torch.tensor([0.9, 0.5, 0.2])


def by_hand(patches: Tensor, text: Tensor, background: Tensor, labels: Tensor, p_y: Tensor) -> tuple[Tensor, Tensor]:
    """u and the background, image by image and patch by patch."""
    maps, masks = [], []
    for image, label, p in zip(patches.double().tolist(), labels.tolist(), p_y.double().tolist(), strict=True):

        def cosines(image: list[list[float]], other: Tensor) -> list[float]:
            return [sum(a * b for a, b in zip(patch, other.double().tolist(), strict=True)) for patch in image]

        b, to_class = cosines(image, background), cosines(image, text[label])
        low, high = min(to_class), max(to_class)
        r = [(x - low) / (high - low) for x in to_class]
        u = [b_i * (1 - p) + p * b_i * (1 - r_i) for b_i, r_i in zip(b, r, strict=True)]
        mean = sum(u) / len(u)
        std = math.sqrt(sum((u_i - mean) ** 2 for u_i in u) / len(u))
        maps.append(u)
        masks.append([u_i > mean - (2 * p - 1) * std for u_i in u])
    return torch.tensor(maps), torch.tensor(masks)


def test_the_map_and_the_background_of_each_image(unit: Callable[..., Tensor]) -> None:
    patches, text, background = unit(3, 16, 8), unit(5, 8, seed=1), unit(8, seed=2)
    maps, masks = by_hand(patches, text, background, LABELS, P_Y)
    found = background_patches(patches, text, background, LABELS, P_Y)
    torch.testing.assert_close(background_map(patches, text, background, LABELS, P_Y), maps, rtol=0, atol=1e-6)
    assert torch.equal(found, masks)
    assert found.any(1).all() and not found.all(1).any()
    alone = background_patches(patches[1:2], text, background, LABELS[1:2], P_Y[1:2])
    assert torch.equal(found[1:2], alone)  # min-max per image, not over the batch


def test_a_surer_class_leaves_more_background(unit: Callable[..., Tensor]) -> None:
    patches, text, background = unit(1, 64, 8), unit(5, 8, seed=1), unit(8, seed=2)
    counts = [
        int(background_patches(patches, text, background, LABELS[:1], torch.tensor([p])).sum()) for p in (0.0, 0.5, 1.0)
    ]
    assert counts[0] < counts[1] < counts[2]


def test_the_map_has_gradients_and_a_single_patch_is_no_background(unit: Callable[..., Tensor]) -> None:
    background = unit(8, seed=2).requires_grad_()
    background_map(unit(2, 9, 8), unit(5, 8, seed=1), background, LABELS[:2], P_Y[:2]).sum().backward()
    assert background.grad is not None and background.grad.abs().min() > 0
    one = background_patches(unit(2, 1, 8), unit(5, 8, seed=1), background, LABELS[:2], P_Y[:2])
    assert not one.any()  # u equals its mean
