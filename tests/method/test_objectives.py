"""Every term of the objectives against loops over items and prompts in double precision."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from clipos_lightning.errors import InputError
from clipos_lightning.method import family
from clipos_lightning.method.feature_store import ShotFeatures
from clipos_lightning.method.losses import (
    energy_id_loss,
    energy_outlier_loss,
    entropy_loss,
    focal_loss,
    id_loss,
    irrelevant_locals,
    uniform_loss,
    unknown_loss,
)
from clipos_lightning.method.objective_names import OBJECTIVES, make_objective
from clipos_lightning.method.objectives import Objective
from clipos_lightning.method.step import Step


@pytest.fixture(params=[1.0, 10.0, 60.0])
def logits(request):
    return request.param * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(x - max(row)) for x in row]
    return [p / sum(powers) for p in powers]


def by_hand(function, logits: torch.Tensor) -> torch.Tensor:
    """A function of one item's logits and probabilities, item by item."""
    return torch.tensor([function(row, softmax(row)) for row in logits.double().tolist()], dtype=torch.float32)


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_id_loss_is_the_cross_entropy_to_the_label(logits):
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    expected = torch.stack(
        [by_hand(lambda _, p, y=y: -math.log(p[y]), logits[i : i + 1])[0] for i, y in enumerate(labels)]
    )
    assert_same(id_loss(logits, labels), expected)


def test_unknown_loss_is_the_cross_entropy_to_the_last_prompt(logits):
    assert_same(unknown_loss(logits), by_hand(lambda _, p: -math.log(p[-1]), logits))


def test_focal_loss_weighs_by_the_square_of_what_is_missing(logits):
    assert_same(focal_loss(logits), by_hand(lambda _, p: -((1 - p[-1]) ** 2) * math.log(p[-1]), logits))
    assert_same(focal_loss(logits, gamma=0.0), unknown_loss(logits))


def test_uniform_loss_is_the_divergence_of_the_uniform_distribution(logits):
    uniform = Categorical(probs=torch.full((6, 5), 0.2, dtype=torch.float64))
    expected = kl_divergence(uniform, Categorical(logits=logits.double()))
    assert_same(uniform_loss(logits), expected.float())
    assert_same(uniform_loss(torch.ones(2, 5)), torch.zeros(2))


def test_entropy_loss_is_the_negative_entropy(logits):
    assert_same(entropy_loss(logits), by_hand(lambda _, p: sum(x * math.log(x) for x in p if x), logits))
    assert_same(entropy_loss(torch.ones(2, 5)), torch.full((2,), -math.log(5)))


@pytest.mark.parametrize("margin", [-30.0, -2.0, 0.0, 5.0])
def test_energy_hinges(logits, margin):
    def energy(row: list[float]) -> float:
        return -max(row) - math.log(sum(math.exp(x - max(row)) for x in row))

    inside = by_hand(lambda row, _: max(0.0, energy(row) - margin) ** 2, logits)
    outside = by_hand(lambda row, _: max(0.0, margin - energy(row)) ** 2, logits)
    assert_same(energy_id_loss(logits, margin), inside)
    assert_same(energy_outlier_loss(logits, margin), outside)
    assert ((inside == 0) | (outside == 0)).all()  # an energy is on one side of the margin
    assert (inside + outside).any()


@pytest.mark.parametrize("loss", [unknown_loss, focal_loss, uniform_loss, entropy_loss])
def test_gradients_are_finite_and_pull_the_right_way(loss):
    logits = torch.tensor([[40.0, 3.0, -40.0], [1.0, 0.0, 2.0]], requires_grad=True)
    values = loss(logits)
    values.sum().backward()
    assert logits.grad.isfinite().all()
    assert (loss(logits.detach() - 0.1 * logits.grad) <= values).all()


@pytest.mark.parametrize("fraction", [0.001, 0.34, 0.5, 1.0])
def test_locoop_takes_the_patches_whose_top_classes_lack_the_label(unit, fraction):
    patches, text, labels = unit(4, 9, 8), unit(6, 8, seed=1), torch.tensor([5, 0, 3, 3])
    chosen = irrelevant_locals(patches, text, labels, fraction)
    k = max(1, round(fraction * 6))
    for b, label in enumerate(labels.tolist()):
        for p in range(9):
            top = sorted(range(6), key=lambda c, b=b, p=p: -float(patches[b, p] @ text[c]))[:k]
            assert bool(chosen[b, p]) == (label not in top)
    assert chosen.any() == (fraction < 1)


def test_locoops_outlier_term_is_the_negative_mean_entropy_of_those_patches(unit):
    patches, text, labels = unit(3, 9, 8), unit(5, 8, seed=1).requires_grad_(), torch.tensor([0, 4, 2])
    chosen = irrelevant_locals(patches, text, labels, 0.2)
    assert not chosen.requires_grad
    term = entropy_loss(20 * patches[chosen] @ text.T).mean()
    entropies = []
    for b, label in enumerate(labels.tolist()):
        for patch in patches[b].double():
            p = softmax([20 * float(patch @ t) for t in text.detach().double()])
            if max(p) != p[label]:
                entropies.append(-sum(x * math.log(x) for x in p))
    assert 0 < len(entropies) < 27
    assert term.item() == pytest.approx(-sum(entropies) / len(entropies), abs=1e-5)


def test_objectives_use_what_they_say():
    with_unknown = {name for name, objective in OBJECTIVES.items() if objective.unknown}
    assert with_unknown == {"unknown", "focal"}
    sources = {name: objective.outliers for name, objective in OBJECTIVES.items()}
    made = dict.fromkeys(("unknown", "focal", "uniform_kl", "energy"), "synthesis")
    assert sources == made | {"entropy": "local_patches", "sct": "local_patches", "none": "none"}
    logits = torch.linspace(-2, 3, 12).view(3, 4)
    losses = {"unknown": unknown_loss, "focal": focal_loss, "uniform_kl": uniform_loss, "entropy": entropy_loss}
    for name, loss in (losses | {"sct": entropy_loss}).items():
        assert torch.equal(make_objective(name).outlier_loss(logits), loss(logits))


def test_sct_weighs_by_the_confidence_in_the_own_class():
    logits, labels = torch.linspace(-2, 3, 12).view(3, 4).requires_grad_(), torch.tensor([0, 3, 1])
    sct = make_objective("sct")
    p = [softmax(row)[label] for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert sct.id_loss(logits, labels).tolist() == pytest.approx([-(1 - v) * math.log(v) for v in p], abs=1e-5)
    assert sct.patch_weight(logits, labels).tolist() == pytest.approx(p, abs=1e-6)
    assert sct.patch_weight(logits, labels).requires_grad  # as in its authors' code
    assert make_objective("entropy").patch_weight(logits, labels).tolist() == [1, 1, 1]


def test_margins_are_the_medians_unless_given():
    inside, outside = torch.tensor([[1.0, 2.0], [0.0, 3.0], [5.0, 1.0]]), torch.tensor([[0.0, 0.5], [1.0, 1.5]])
    energy = [sorted(-math.log(sum(map(math.exp, row))) for row in rows.tolist()) for rows in (inside, outside)]
    objective = make_objective("energy")
    objective.prepare(inside, outside)
    assert objective.margins == pytest.approx((energy[0][1], energy[1][0]))  # torch's median: the lower of two
    given = make_objective("energy", (1.0, 2.0))
    given.prepare(inside, outside)
    assert given.margins == (1.0, 2.0)
    assert given.id_penalty(inside).tolist() == energy_id_loss(inside, 1.0).tolist()
    assert given.outlier_loss(outside).tolist() == energy_outlier_loss(outside, 2.0).tolist()


def test_margins_that_are_not_given_are_those_of_the_last_fit():
    objective, first, second = make_objective("energy"), torch.zeros(3, 2), torch.ones(3, 2)
    for logits in (first, second):
        objective.prepare(logits, logits)
        assert objective.margins == pytest.approx(2 * [-(math.log(2) + float(logits[0, 0]))])


class Toy(Objective):
    """Terms of its own over images and over patches."""

    outliers, attention = "local_patches", True

    def patch_weights(self, step):
        return step.attention

    def outlier_terms(self, step):
        return [*super().outlier_terms(step), step.logits[:, 0]]

    def outlier_loss(self, logits):
        return logits.sum(1)


def test_an_objective_sees_the_step(unit):
    patches, text, labels = unit(3, 9, 8), unit(5, 8, seed=1), torch.tensor([0, 4, 2])
    features = ShotFeatures(unit(3, 8, seed=2), patches=patches, attention=unit(3, 9, seed=3).abs())
    step = Step(features, labels, text, text, 20.0, 0.4, text[:0])
    penalty, weighted, own = Toy().outlier_terms(step)
    expected = []
    for b, label in enumerate(labels.tolist()):
        for p in range(9):
            rows = [20 * float(patches[b, p] @ t) for t in text]
            if rows[label] < sorted(rows)[-2]:  # not among the best 2 of 5
                expected.append(float(features.attention[b, p]) * sum(rows))
    assert weighted.tolist() == pytest.approx(expected, abs=1e-4) and len(expected) > 5
    assert penalty.tolist() == [0, 0, 0]
    assert own.tolist() == pytest.approx([20 * float(f @ text[0]) for f in features.cls], abs=1e-5)


def test_methods_of_the_family_have_names():
    assert "fobor" in family.METHODS
    assert make_objective("fobor").confusable_weight == 15
    assert make_objective({"class_path": "fobor", "init_args": {"sharpness": 1.0}}).sharpness == 1
    with pytest.raises(InputError, match=r"take one of unknown, .*none, fa, fobor"):
        make_objective("forbor")
    with pytest.raises(InputError, match=r"fobor: .*unexpected keyword argument 'eta'"):
        make_objective({"class_path": "fobor", "init_args": {"eta": 1.0}})
