"""The scores of the methods against loops over images, patches and prompts, in plain Python's double precision."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipos_lightning import ExtraTexts
from clipos_lightning.evaluation.scores import ScoreOptions, compute_scores
from clipos_lightning.method.family import family_scores
from clipos_lightning.method.mask import MaskOptions
from clipos_lightning.types import ImageFeatures

B, D, SCALE, WEIGHT = 3, 8, 20.0, 0.7
Unit = Callable[..., Tensor]
Row = list[float]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def rows(tensor: Tensor) -> Any:
    return tensor.double().tolist()


def softmax_max(row: Row, temperature: float) -> float:
    return max(math.exp(value / temperature) for value in row) / sum(math.exp(value / temperature) for value in row)


def cosines(feature: Row, texts: list[Row]) -> Row:
    return [dot(feature, text) for text in texts]


class Case:
    """Images and texts of C classes, and their scores by the names of methods, image by image."""

    def __init__(self, unit: Unit, classes: int, patches: int, temperature: float) -> None:
        self.classes, self.t = classes, temperature
        self.features = ImageFeatures(cls=unit(B, D, seed=2), patches_local=unit(B, patches, D, seed=3))
        self.text, self.further = unit(classes, D), unit(4 * classes, D, seed=4)
        self.negatives = F.normalize(torch.randn(5, D, generator=torch.Generator().manual_seed(1)), dim=-1)
        self.local_map = torch.eye(D) + 0.4 * unit(D, D, seed=5)

    def found(self, name: str, **extra: Tensor) -> Row:
        options = ScoreOptions(temperature=self.t, local_weight=WEIGHT)
        given = (self.features, self.text, self.text, SCALE, MaskOptions(), options)
        return compute_scores([name], *given, extra=ExtraTexts(**extra))[0][name].tolist()

    def images(self) -> Iterator[tuple[Row, list[Row]]]:
        return zip(rows(self.features.cls), rows(self.features.path("local")), strict=True)

    def mcm(self, feature: Row) -> float:
        return softmax_max(cosines(feature, rows(self.text)), self.t)

    def fa(self, feature: Row) -> float:
        return softmax_max(cosines(feature, rows(self.text) + rows(self.further)), self.t)

    def best(self, share: Callable[[Row], Row], patches: list[Row]) -> float:
        """The mean of the 10 largest shares over patches and classes."""
        largest = sorted((value for patch in patches for value in share(patch)), reverse=True)[:10]
        return sum(largest) / len(largest)

    def share_of_negatives(self, patch: Row) -> Row:
        """e^<f,t> over the sum over the local prompts, the first further ones, and the negatives."""
        local = rows(self.further[: self.classes])
        e = [math.exp(value / self.t) for value in cosines(patch, local + rows(self.negatives))]
        return [value / sum(e) for value in e[: self.classes]]

    def share_of_background(self, patch: Row) -> Row:
        """e^<f,t> over the sum over the classes and the cosine of the background, at least 0, as it is."""
        e = [math.exp(value / self.t) for value in cosines(patch, rows(self.text))]
        return [value / (sum(e) + max(0.0, dot(patch, rows(self.negatives)[0]))) for value in e]

    def local_mean(self, patch: Row) -> float:
        """The softmax of the mean over the two local prompts of each class, for W f of length 1."""
        moved = [dot(row, patch) for row in rows(self.local_map)]
        length, texts = math.sqrt(dot(moved, moved)), rows(self.further.unflatten(0, (4, self.classes)))
        each = [[dot(moved, texts[m][c]) / length for m in (2, 3)] for c in range(self.classes)]
        return softmax_max([sum(pair) / 2 for pair in each], self.t)


@pytest.fixture(params=[(4, 9, 1.0), (4, 9, 0.3), (2, 3, 2.0), (1, 1, 1.0)], ids=str)
def case(request: pytest.FixtureRequest, unit: Unit) -> Case:
    """The classes, the patches (fewer than 10 pairs of both in some), and the temperature."""
    return Case(unit, *request.param)


def close(expected: Row) -> Any:
    return pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_fa_over_learned_and_frozen_prompts(case: Case) -> None:
    assert case.found("fa", further=case.further) == close([case.fa(feature) for feature, _ in case.images()])
    both = [case.fa(feature) + WEIGHT * max(map(case.fa, patches)) for feature, patches in case.images()]
    assert case.found("gl_fa", further=case.further) == close(both)


def test_id_likes_is_the_logit_of_the_class_probability(case: Case) -> None:
    expected, p = [], []
    for feature, _ in case.images():
        inside, outside = (
            sum(math.exp(SCALE * value) for value in cosines(feature, rows(texts)))
            for texts in (case.text, case.negatives)
        )
        p.append(inside / (inside + outside))
        expected.append(math.log(p[-1] / (1 - p[-1])))
    found = case.found("id_like", negatives=case.negatives)
    assert found == close(expected)
    assert sorted(range(B), key=found.__getitem__) == sorted(range(B), key=p.__getitem__)


def test_local_prompts_counts_the_best_pairs_of_patch_and_class(case: Case) -> None:
    expected = [case.mcm(f) + WEIGHT * case.best(case.share_of_negatives, patches) for f, patches in case.images()]
    assert case.found("local_prompt", further=case.further, negatives=case.negatives) == close(expected)


def test_gallops_is_of_the_mean_of_its_prompts_and_of_mapped_patches(case: Case) -> None:
    expected = [case.mcm(feature) + WEIGHT * max(map(case.local_mean, patches)) for feature, patches in case.images()]
    assert case.found("gallop", further=case.further, local_map=case.local_map) == close(expected)
    plain = case.found("gallop", further=case.further)
    assert (plain == close(expected)) == (case.classes == 1)  # the map matters
    case.local_map = torch.eye(D)
    assert plain == close([case.mcm(f) + WEIGHT * max(map(case.local_mean, patches)) for f, patches in case.images()])


def test_mambos_counts_the_best_pairs_beside_the_background(case: Case) -> None:
    expected = [case.mcm(f) + WEIGHT * case.best(case.share_of_background, patches) for f, patches in case.images()]
    assert case.found("mambo", negatives=case.negatives[:1]) == close(expected)


def test_mambos_does_not_overflow(case: Case) -> None:
    case.t = 0.005
    assert all(map(math.isfinite, case.found("mambo", negatives=case.negatives[:1])))


def test_in_chunks_they_are_the_same(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(unit, 4, 9, 1.0)
    texts = {"further": case.further, "negatives": case.negatives[:1], "local_map": case.local_map}
    whole = {name: case.found(name, **texts) for name in family_scores()}
    assert {"fa", "gl_fa", "id_like", "local_prompt", "gallop", "mambo"} <= set(whole)
    monkeypatch.setattr("clipos_lightning.utils.chunks.CHUNK_BYTES", 100)
    for name, values in whole.items():
        assert case.found(name, **texts) == close(values), name
