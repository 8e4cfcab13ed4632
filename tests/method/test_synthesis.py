"""Pairs, mixing coefficients and patches: drawn by the published rule, and identical for any number of processes."""

import itertools

import numpy as np
import pytest
import torch

from clipos_lightning.errors import InputError
from clipos_lightning.method.synthesis import (
    SynthesisOptions,
    as_tensors,
    choose_patches,
    draw_pairs,
    draw_step,
    mix_features,
    pick_patch,
)

LABELS = np.array([2, 0, 1, 0, 2, 2, 1, 0, 0])


@pytest.mark.parametrize("labels", [LABELS, np.array([5, 3]), np.arange(7), np.array([0] * 30 + [9])])
def test_pairs_always_have_different_labels(labels):
    pairs = draw_pairs(np.random.default_rng(0), labels, 500)
    assert pairs.shape == (500, 2)
    assert (labels[pairs[:, 0]] != labels[pairs[:, 1]]).all()


def test_pairs_are_uniform_over_the_first_and_then_over_its_partners():
    pairs = draw_pairs(np.random.default_rng(1), LABELS, 200_000)
    seen = np.zeros((len(LABELS), len(LABELS)))
    np.add.at(seen, (pairs[:, 0], pairs[:, 1]), 1 / len(pairs))
    for i, j in itertools.product(range(len(LABELS)), repeat=2):
        partners = [k for k in range(len(LABELS)) if LABELS[k] != LABELS[i]]
        expected = 1 / len(LABELS) / len(partners) if j in partners else 0.0
        assert seen[i, j] == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize("labels", [np.array([4, 4, 4]), np.array([1])])
def test_one_class_has_no_pairs(labels):
    assert draw_pairs(np.random.default_rng(0), labels, 5).shape == (0, 2)
    draw = draw_step(1, 2, labels, SynthesisOptions())
    assert (draw.pairs.shape, draw.mix.shape, draw.patch.shape) == ((0, 2), (0,), (0, 2))


def values(seed: int = 1, step: int = 0, **options: object) -> list[np.ndarray]:
    draw = draw_step(seed, step, LABELS, SynthesisOptions(**options))
    return [draw.pairs, draw.mix, draw.patch]


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> list[bool]:
    return [np.array_equal(a, b) for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (0, 7), (3, 0), (3, 7)])
def test_a_draw_is_a_function_of_seed_and_step(seed, step):
    first = values(seed, step)
    np.random.seed(5)  # noqa: NPY002 (the global generator must not matter)
    assert equal(first, values(seed, step)) == [True] * 3
    assert equal(first, values(seed + 1, step)) == [False] * 3
    assert equal(first, values(seed, step + 1)) == [False] * 3


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_a_fixed_mix_is_honoured_and_leaves_the_other_draws(mix):
    assert (values(mix=mix)[1] == mix).all()
    assert equal(values(mix=mix), values()) == [True, False, True]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mix_is_beta_distributed(alpha):
    mix = values(alpha=alpha, count=20_000)[1]
    assert mix.mean() == pytest.approx(0.5, abs=0.01)
    assert mix.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_count():
    assert [len(part) for part in values()] == [len(LABELS)] * 3
    assert [len(part) for part in values(count=4)] == [4] * 3


@pytest.mark.badinput
@pytest.mark.parametrize("option", [{"alpha": 0.0}, {"mix": -0.1}, {"mix": 1.1}, {"count": 0}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(InputError, match=f"--model.synthesis.{next(iter(option))} is "):
        SynthesisOptions(**option)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 20])
def test_the_processes_shares_are_the_global_draw_each_outlier_once(world):
    draw = draw_step(1, 2, LABELS, SynthesisOptions())
    shares = [draw.shard(rank, world) for rank in range(world)]
    for name in ("pairs", "mix", "patch"):
        whole, parts = getattr(draw, name), [getattr(share, name) for share in shares]
        assert sorted(map(str, np.concatenate(parts))) == sorted(map(str, whole)), name
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for rank, part in enumerate(parts):
            assert np.array_equal(part, whole[[i for i in range(len(whole)) if i % world == rank]])


def test_mix_features_by_hand(unit):
    a, b, mix = unit(4, 6), unit(4, 6, seed=1), torch.tensor([0.0, 1.0, 0.25, 0.5])
    mixed = mix_features(a, b, mix)
    for i, share in enumerate(mix.tolist()):
        f = share * a[i].double() + (1 - share) * b[i].double()
        torch.testing.assert_close(mixed[i], (f / (f * f).sum().sqrt()).float(), rtol=0, atol=1e-6)


def test_pick_patch_takes_the_masks_patches_each_for_its_share_of_u():
    mask = torch.tensor([False, True, True, False, False, True, False])
    patches = torch.arange(7.0)[:, None]
    for u, expected in [(0.0, 1), (0.33, 1), (0.34, 2), (0.66, 2), (0.67, 5), (np.nextafter(1, 0), 5)]:
        picked = pick_patch(patches[None], mask[None], torch.tensor([u], dtype=torch.float64))
        assert picked.tolist() == [[expected]], u


def test_pick_patch_of_each_image_its_own(unit):
    masks = torch.rand(200, 9, generator=torch.Generator().manual_seed(0)) > 0.7
    masks[:, 4] |= ~masks.any(1)
    patches, where = unit(200, 9, 4), torch.from_numpy(np.random.default_rng(0).random(200))
    picked = pick_patch(patches, masks, where)
    for image, mask, u, given in zip(patches, masks, where.tolist(), picked, strict=True):
        own = [p for p, inside in zip(image, mask, strict=True) if inside]
        assert torch.equal(given, own[int(u * len(own))])


def test_choose_patches():
    mask = torch.tensor([[True, False, True], [True, True, True]])
    assert choose_patches(mask, "relevant").tolist() == mask.tolist()
    assert choose_patches(mask, "all").tolist() == [[True] * 3] * 2
    assert choose_patches(mask, "irrelevant").tolist() == [[False, True, False], [False, False, True]]
    assert mask.tolist() == [[True, False, True], [True, True, True]]  # as it was given


def test_as_tensors_keeps_the_draw():
    draw = draw_step(1, 0, LABELS, SynthesisOptions())
    pairs, mix, patch = as_tensors(draw, torch.zeros(1))
    assert pairs.tolist() == draw.pairs.tolist()
    assert (mix.dtype, patch.dtype) == (torch.float32, torch.float32)  # not every device has fp64
    np.testing.assert_allclose(mix.numpy(), draw.mix, rtol=1e-6)
    np.testing.assert_allclose(patch.numpy(), draw.patch, rtol=1e-6)


def test_a_choice_that_fp32_rounds_up_to_one_takes_the_last_patch():
    patches, mask = torch.eye(4)[None], torch.tensor([[True, False, True, False]])
    almost = torch.tensor([1 - 1e-12], dtype=torch.float64).float()
    assert float(almost) == 1.0
    assert pick_patch(patches, mask, almost).tolist() == [[0.0, 0.0, 1.0, 0.0]]
