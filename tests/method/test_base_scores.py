"""Base scores of extreme logits: no saturation, no overflow, same order as the probabilities."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from clipos_lightning.evaluation.scores import SCORES
from clipos_lightning.method.base_scores import (
    energy,
    energy_unknown,
    entropy,
    max_logit,
    mcm,
    msp,
    msp_unknown,
    unknown,
)
from clipos_lightning.method.logits import Logits, prompt_logits
from clipos_lightning.method.reference import Reference


def some_evidence(best: torch.Tensor, scale: float = 1.0) -> Logits:
    """One class at ``best``, two at 0, "unknown" at 1 / 2."""
    return Logits(F.pad(best[:, None], (0, 2)), torch.full(best.shape, 0.5), scale)


@pytest.mark.parametrize("score", [msp, msp_unknown])
def test_msp_does_not_saturate(score):
    e = some_evidence(torch.linspace(20, 80, 100))
    assert len(e.logits.softmax(1).amax(1).unique()) < 20  # what it replaces ties
    assert (score(e).diff() > 0).all()


@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_scores_stay_finite_where_unknown_is_far_ahead(scale):
    e = Logits(torch.tensor([[-0.1, -0.2]]), torch.tensor([0.8]), scale)
    for score in (msp, msp_unknown, energy, entropy, max_logit, unknown, energy_unknown):
        assert score(e).isfinite().all(), score.__name__
    assert float(msp_unknown(e)) == pytest.approx(-0.9 * scale, rel=1e-4)


def test_unknown_ranks_as_one_minus_its_probability_but_without_ties(unit):
    e = prompt_logits(unit(500, 8).double(), unit(5, 8, seed=1).double(), 4, 10.0)
    p = torch.cat([e.logits, e.unknown_logit[:, None]], 1).softmax(1)[:, -1]
    assert unknown(e).argsort().tolist() == (1 - p).argsort().tolist()
    far = some_evidence(torch.linspace(30, 60, 100))
    assert (unknown(far).diff() > 0).all()


def test_evidence_of_several_features_at_once_is_that_of_each(unit):
    patches, text = unit(2, 3, 8), unit(5, 8, seed=1)
    known = Reference(unit(6, 8, seed=2), torch.tensor([0, 1, 2, 3, 0, 1]), neighbors=2, shrinkage=0.9)
    words = unit(5, 8, seed=3)

    def compare(features: torch.Tensor) -> Logits:
        logits = prompt_logits(features, text, 4, 10.0, t=0.5, memory=known)
        return replace(logits, negatives=features @ words.T, group_size=2)

    together = compare(patches)
    for score in (s.base for s in SCORES.values()):
        values = score(together)
        assert values.shape == (2, 3)
        alone = [[score(compare(p)) for p in image] for image in patches]
        torch.testing.assert_close(values, torch.stack([torch.stack(row) for row in alone]))


def test_a_single_class_is_certain_until_unknown_comes_in():
    e = Logits(torch.tensor([[0.3]]), torch.tensor([0.3]), 10.0)
    assert float(msp(e)) == 0
    assert float(mcm(e)) == 1
    assert float(msp_unknown(e)) == pytest.approx(float(torch.tensor(0.5).log()))


def test_temperature_divides_the_cosine_of_mcm_alone():
    cosine = torch.tensor([[0.3, 0.1]])
    usual, warm = (Logits(cosine, torch.tensor([0.2]), 10.0, t) for t in (1.0, 0.1))
    assert float(mcm(warm)) == pytest.approx(float((10 * cosine).softmax(1).max()))
    for score in (msp, msp_unknown, energy, entropy, max_logit, unknown, energy_unknown):
        assert torch.equal(score(usual), score(warm))
