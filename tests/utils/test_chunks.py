"""Patches × classes in chunks within a budget: same values and gradients as in one piece."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipos_lightning.evaluation.scores import SCORES, ScoreOptions, compute_scores
from clipos_lightning.method.image_weight import measure_weights
from clipos_lightning.method.losses import entropy_loss, irrelevant_locals
from clipos_lightning.method.mask import MaskOptions, relevant_patches
from clipos_lightning.types import ImageFeatures
from clipos_lightning.utils import chunks as parts

BATCH, PATCHES, CLASSES, DIM = 24, 16, 50, 8
BUDGET = 3 * PATCHES * CLASSES * 4 + PATCHES * 4 * 3  # three images' patches against all classes


class Largest(TorchDispatchMode):
    """The largest result of any operation."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() * t.element_size() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.bytes = max([self.bytes, *sizes])
        return out


@pytest.fixture
def given(unit):
    features = ImageFeatures(unit(BATCH, DIM), *(unit(BATCH, PATCHES, DIM, seed=i) for i in (1, 2, 3)))
    return SimpleNamespace(features=features, text=unit(CLASSES + 1, DIM, seed=4), labels=torch.arange(BATCH) % CLASSES)


def local_scores(given):
    names = [name for name, score in SCORES.items() if score.on == "local"]
    text = given.text
    return torch.stack(
        list(compute_scores(names, given.features, text, text[:-1], 20.0, MaskOptions(), ScoreOptions())[0].values())
    )


def top_k_mask(given):
    return relevant_patches(given.features, given.text, given.labels, MaskOptions("top_k"))


def locoops_patches(given):
    return irrelevant_locals(given.features.patches_local, given.text, given.labels, 0.2)


@pytest.mark.parametrize("work", [local_scores, top_k_mask, locoops_patches])
def test_no_tensor_is_beyond_the_budget_and_the_numbers_are_the_same(given, work, monkeypatch):
    with Largest() as whole:
        expected = work(given)
    assert whole.bytes >= BATCH * PATCHES * CLASSES * 4
    monkeypatch.setattr(parts, "CHUNK_BYTES", BUDGET)
    with Largest() as largest:
        found = work(given)
    assert largest.bytes <= max(BUDGET, given.features.patches.nbytes)
    if expected.dtype == torch.bool:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_gradients_in_parts_are_those_of_one_piece_and_keep_no_part_whole(given, monkeypatch):
    rows, text = given.features.patches_local.flatten(0, 1), given.text.clone().requires_grad_()
    found = []
    for budget in (parts.CHUNK_BYTES, BUDGET):
        monkeypatch.setattr(parts, "CHUNK_BYTES", budget)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            losses = parts.by_chunks(lambda part: entropy_loss(20 * (part @ text.T)), (rows,), 4 * len(text))
        (gradient,) = torch.autograd.grad(losses.sum(), text)
        found.append((losses.detach(), gradient, max(kept, default=0)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-5)
    assert found[1][2] < found[0][2]


def test_a_single_row_may_be_beyond_the_budget(monkeypatch):
    monkeypatch.setattr(parts, "CHUNK_BYTES", 1)
    tensor = torch.randn(5, 3)
    assert torch.equal(parts.by_chunks(lambda t: t.sum(1), (tensor,), 12), tensor.sum(1))
    assert len(parts.by_chunks(lambda t: t.sum(1), (tensor[:0],), 12)) == 0


def test_the_weight_of_the_images_is_measured_in_parts(unit, monkeypatch):
    images, views, classes = 30, 8, 40
    given = (unit(images, views, DIM), torch.arange(images) % classes, unit(classes, DIM, seed=1), 20.0)
    expected = measure_weights(*given)
    monkeypatch.setattr(parts, "CHUNK_BYTES", 4 * views * classes * 3)
    with Largest() as largest:
        found = measure_weights(*given)
    assert largest.bytes <= 4 * views * images * DIM  # one image of every class would be 5 times as much
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
