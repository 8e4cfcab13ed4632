"""Each method's terms against loops over images, patches and prompts, in plain Python's double precision."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipos_lightning import ClipOS, ContextOptions, ExtraTexts, Objective
from clipos_lightning.method.feature_store import ShotFeatures
from clipos_lightning.method.objective_names import make_objective
from clipos_lightning.method.step import Step

B, C, P, D, SCALE = 3, 4, 12, 8, 20.0
LABELS = [3, 0, 2]
Unit = Callable[..., Tensor]
Row = list[float]


# ---- plain Python


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def rows(tensor: Tensor) -> Any:
    return tensor.detach().double().tolist()


def lse(values: Sequence[float]) -> float:
    return max(values) + math.log(sum(math.exp(v - max(values)) for v in values))


def logits(feature: Row, texts: list[Row], scale: float = SCALE) -> Row:
    return [scale * dot(feature, text) for text in texts]


def cross_entropy(row: Row, label: int) -> float:
    return lse(row) - row[label]


def largest(values: Sequence[float], k: int) -> Row:
    return sorted(values, reverse=True)[:k]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def mapped(matrix: list[Row], patch: Row) -> Row:
    moved = [dot(row, patch) for row in matrix]
    return [x / math.sqrt(dot(moved, moved)) for x in moved]


# ---- steps


def make_step(unit: Unit, objective: Objective, number: int = 0, scale: float = SCALE, **extra: Tensor) -> Step:
    """A step of three images, with crops as the objective asks for them, and the given further texts."""
    shapes = {}
    if objective.crops is not None:
        patches = [P] if objective.crops.patches else []
        shapes = {"inside": [objective.crops.inside, *patches], "outside": [objective.crops.outside, *patches]}
    crops = {name: unit(B, *shape, D, seed=5 + i) for i, (name, shape) in enumerate(shapes.items())}
    features = ShotFeatures(unit(B, D, seed=2), patches=unit(B, P, D, seed=3), **crops)
    labels, text, class_text = torch.tensor(LABELS), unit(C, D), unit(C, D, seed=1)
    constants = class_text, scale, 0.5, text[:0], ExtraTexts(**extra)
    return Step(features, labels, text, *constants, number=number, images=torch.arange(B))


def method(name: str, **arguments: Any) -> Objective:
    return make_objective({"class_path": name, "init_args": arguments})


def assert_same(found: Tensor, expected: Sequence[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=2e-5)


class Rows(nn.Module):
    """Stands for an objective's own prompts."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self) -> Tensor:
        return self.rows


def signed(*shape: int, seed: int = 9) -> Tensor:
    """Unit vectors whose cosines have both signs."""
    return nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# ---- FA


@pytest.mark.parametrize("copies", [1, 3])
def test_fa(copies: int, unit: Unit) -> None:
    objective = method("fa", copies=copies)
    text, extra = objective.texts(unit(C, D), unit(C, D, seed=1), None)
    assert torch.equal(text, unit(C, D)) and set(extra.tensors) == {"further"}
    step = make_step(unit, objective, further=extra.further)
    frozen, expected = rows(step.class_text), []
    for feature, label in zip(rows(step.features.cls), LABELS, strict=True):
        columns = logits(feature, rows(step.text))
        for _ in range(copies):
            columns += logits(feature, frozen)
        expected.append(cross_entropy(columns, label))
    assert_same(objective.id_term(step), expected)
    assert [float(term.sum()) for term in objective.outlier_terms(step)] == [0]


# ---- ID-like


def class_part(feature: Row, step: Step) -> float:
    """log(sum over the classes of p_c + 1e-16) over the class prompts and the OOD prompts."""
    row = logits(feature, rows(step.text) + rows(step.negatives), step.scale)
    return math.log(sum(math.exp(value - lse(row)) for value in row[:C]) + 1e-16)


@pytest.mark.parametrize("count", [2, 7])
def test_id_like(count: int, unit: Unit) -> None:
    objective = method("id_like", count=count, crops=9, kept=4)
    text, extra = objective.texts(unit(C, D), unit(C, D, seed=1), Rows(signed(count, D)))
    assert torch.equal(text, unit(C, D)) and set(extra.tensors) == {"negatives"}
    step = make_step(unit, objective, negatives=extra.negatives)
    texts, inside = rows(step.text) + rows(step.negatives), []
    for crops, label in zip(rows(step.inside), LABELS, strict=True):
        inside += [cross_entropy(logits(crop, texts), label) for crop in crops]
    assert_same(objective.id_term(step), inside)
    outside, likeness = objective.outlier_terms(step)
    assert_same(outside, [class_part(crop, step) for crops in rows(step.outside) for crop in crops])
    own = rows(step.negatives)
    pairs = [max(0.0, dot(own[j], own[m])) for j in range(count) for m in range(j)]
    assert 0 in pairs or count == 2
    assert_same(0.3 * likeness, [0.2 * mean(pairs)])  # lambda_ood of id_like.yaml


def test_id_like_has_a_floor_under_the_class_probability(unit: Unit) -> None:
    objective = method("id_like", count=2, crops=4, kept=2)
    step = make_step(unit, objective, scale=300.0, negatives=signed(2, D))
    step.features.outside = step.negatives.expand(B, -1, -1).contiguous()  # these crops are the OOD prompts
    expected = [class_part(crop, step) for crops in rows(step.outside) for crop in crops]
    assert min(expected) == pytest.approx(math.log(1e-16))
    assert_same(objective.outlier_terms(step)[0], expected)


# ---- Local-Prompt


def top_exp(view: list[Row], text: Row, k: int) -> float:
    """The sum over the k patches that are most like a text of e^l."""
    return sum(math.exp(value) for value in largest([SCALE * dot(patch, text) for patch in view], k))


@pytest.mark.parametrize("top", [1, 4, 50])  # of 12 patches
@pytest.mark.parametrize("number", [0, 3])
def test_local_prompt(number: int, top: int, unit: Unit) -> None:
    objective = method("local_prompt", count=5, top=top, crops=6, positives=2)
    text, extra = objective.texts(unit(C, D), unit(C, D, seed=1), Rows(signed(5, D)))
    assert torch.equal(text, unit(C, D, seed=1))  # the global prompts are frozen
    step = make_step(unit, objective, number, **extra.tensors)
    local, negatives, positive, negative = rows(unit(C, D)), rows(extra.negatives), [], []
    for views, outside, label in zip(rows(step.inside), rows(step.outside), LABELS, strict=True):
        a = top_exp(views[number % 2], local[label], top)
        b = sum(top_exp(views[number % 2], text, top) for text in local + negatives)
        positive.append(-math.log(a / b))
        chosen = sorted(outside[0], key=lambda patch, label=label: -dot(patch, local[label]))[:top]
        n = sum(math.exp(SCALE * dot(patch, other)) for patch in chosen for other in negatives)
        negative.append(-math.log(n / (n + sum(top_exp(outside[0], text, top) for text in local))))
    assert_same(objective.id_term(step), positive)
    found, likeness = objective.outlier_terms(step)
    assert_same(found, negative)
    total = sum(dot(one, other) for one in negatives for other in negatives) / (5 * 4)
    assert_same(5 * likeness, [0.5 * total])  # lambda_ood of local_prompt.yaml


# ---- GalLoP


def gallop_step(unit: Unit, objective: Objective, count: int, number: int = 0) -> Step:
    matrix = torch.eye(D) + 0.4 * signed(D, D)
    return make_step(unit, objective, number, further=unit(2 * count * C, D, seed=8), local_map=matrix)


@pytest.mark.parametrize(("dropout", "kept"), [(0.0, 4), (0.3, 3), (0.75, 1), (0.99, 1)])
def test_gallop_keeps_some_global_prompts(dropout: float, kept: int, unit: Unit) -> None:
    objective = method("gallop", dropout=dropout)
    step = gallop_step(unit, objective, 4)
    chosen = objective.kept(step).tolist()
    assert [sum(row) for row in chosen] == [kept] * B
    texts, expected = rows(step.further), []
    for feature, label, keeps in zip(rows(step.features.cls), LABELS, chosen, strict=True):
        of_prompts = [logits(feature, texts[m]) for m in range(4) if keeps[m]]
        expected.append(cross_entropy([mean(column) for column in zip(*of_prompts, strict=True)], label))
    assert_same(objective.id_term(step), expected)


def test_gallop_draws_by_image_and_step(unit: Unit) -> None:
    objective, chosen = method("gallop"), []
    for number in range(40):
        step = gallop_step(unit, objective, 4, number)
        kept = objective.kept(step)
        chosen.append(kept)
        for shard in (slice(0, None, 2), slice(1, None, 2)):  # of two processes
            step.images = torch.arange(B)[shard]
            assert torch.equal(objective.kept(step), kept[shard])
    share = torch.stack(chosen).mean(0)
    assert (share > 0.05).all() and (share < 0.6).all()  # each prompt for each image, a quarter of the time
    assert not torch.equal(torch.stack(chosen)[:, 0], torch.stack(chosen)[:, 1])
    step.images = torch.empty(0, dtype=torch.long)  # a process without an image
    assert objective.kept(step).shape == (0, 4)


@pytest.mark.parametrize("count", [1, 4])  # the third and fourth prompt take all of the 12 patches
def test_gallops_local_prompts(count: int, unit: Unit) -> None:
    objective = method("gallop", count=count)
    step = gallop_step(unit, objective, count)
    matrix, texts, expected = rows(step.extra.local_map), rows(step.further), []
    for patches, label in zip(rows(step.patches), LABELS, strict=True):
        moved, losses = [mapped(matrix, patch) for patch in patches], []
        for m in range(1, count + 1):
            local = texts[count + m - 1]
            of_classes = [mean(largest([SCALE * dot(patch, text) for patch in moved], 5 * m)) for text in local]
            losses.append(cross_entropy(of_classes, label))
        expected.append(mean(losses))
    (found,) = objective.outlier_terms(step)
    assert_same(found, expected)


# ---- Mambo


def test_mambo(unit: Unit) -> None:
    objective, background = method("mambo"), signed(1, D)
    text, extra = objective.texts(unit(C, D), unit(C, D, seed=1), Rows(background))
    assert torch.equal(text, unit(C, D)) and extra.negatives is background
    step = make_step(unit, objective, negatives=background)
    texts, t_b, inside, outside = rows(step.text), rows(background)[0], [], []
    for feature, patches, label in zip(rows(step.features.cls), rows(step.patches), LABELS, strict=True):
        row = logits(feature, texts)
        p_y = math.exp(row[label] - lse(row))
        inside.append((1 - p_y) * cross_entropy(row, label))
        to_class = [dot(patch, texts[label]) for patch in patches]
        low, high = min(to_class), max(to_class)
        r = [(value - low) / (high - low) for value in to_class]
        b = [dot(patch, t_b) for patch in patches]
        u = [b_i * (1 - p_y) + p_y * b_i * (1 - r_i) for b_i, r_i in zip(b, r, strict=True)]
        spread = math.sqrt(mean([(value - mean(u)) ** 2 for value in u]))
        for patch, value in zip(patches, u, strict=True):
            if value > mean(u) - (2 * p_y - 1) * spread:
                of_patch = logits(patch, texts)
                p = [math.exp(value - lse(of_patch)) for value in of_patch]
                outside.append(p_y * sum(x * math.log(x) for x in p))
    assert_same(objective.id_term(step), inside)
    penalty, found = objective.outlier_terms(step)
    assert not penalty.any() and 0 < len(outside) < B * P
    assert_same(found, outside)
    step.features.patches = step.patches[:, :1]
    assert objective.outlier_terms(step)[1].shape == (0,)  # a single patch is no background


# ---- all of them

OPTIONS: dict[str, dict[str, Any]] = {
    "fa": {},
    "id_like": {"count": 5, "length": 3, "crops": 6, "kept": 2},
    "local_prompt": {"count": 5, "length": 3, "top": 4, "crops": 6, "positives": 2},
    "gallop": {"count": 2, "dropout": 0.5},
    "mambo": {},
    "fobor": {},
}
LEARNS = {
    "fa": set(),
    "id_like": {"own.shared", "own.own"},
    "local_prompt": {"own.own"},
    "gallop": {"own.local_map", *(f"own.further.{i}.context" for i in range(3))},
    "mambo": set(),
    "fobor": set(),
}


def real_step(model: ClipOS, unit: Unit) -> Step:
    """A step of 12 images with random features under a module's prompts."""
    crops, labels = model.objective.crops, torch.arange(12) % 3
    patches = () if crops is None or not crops.patches else (9,)
    given = (
        {}
        if crops is None
        else {
            "inside": unit(12, crops.inside, *patches, 128, seed=3),
            "outside": unit(12, crops.outside, *patches, 128, seed=4),
        }
    )
    features = ShotFeatures(
        unit(12, 128), patches=unit(12, 9, 128, seed=1), attention=unit(12, 9, seed=2).abs(), **given
    )
    text, extra = model.texts_of(model.prompts())
    constants = model.class_text, 20.0, 0.34, model.class_text[:0]
    return Step(features, labels, text, *constants, extra, images=torch.arange(12))


@pytest.mark.parametrize("name", OPTIONS)
def test_what_learns_and_computing_in_chunks(name: str, unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients reach the contexts and the method's own prompts and nothing else; chunks change nothing."""
    objective = {"class_path": name, "init_args": OPTIONS[name]}
    model = ClipOS(["cat", "dog", "owl"], "MicroCLIP", objective=objective, context=ContextOptions(length=3))
    found = []
    for budget in (2**26, 100):
        monkeypatch.setattr("clipos_lightning.utils.chunks.CHUNK_BYTES", budget)
        model.zero_grad()
        step = real_step(model, unit)
        terms = [model.objective.id_term(step), *model.objective.outlier_terms(step)]
        sum(term.mean() for term in terms).backward()
        reached = {key: p.grad for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        found.append((terms, reached))
    (terms, reached), (chunked, again) = found
    assert set(reached) == {"prompts.context"} | LEARNS[name] == set(again)
    assert {id(p) for p in model.learned_parameters} == {id(p) for p in model.parameters() if p.requires_grad}
    for one, other in zip(terms, chunked, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    for key, gradient in reached.items():
        torch.testing.assert_close(again[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


def test_gallops_prompts_of_a_model(microclip: Any) -> None:
    """All start as the context's words or with different random numbers; the detector's text is the global mean."""
    given = {"objective": {"class_path": "gallop", "init_args": {"count": 2}}, "seed": 3}
    model = ClipOS(["cat", "dog"], "MicroCLIP", context=ContextOptions(length=3), **given)
    text, extra = model.texts_of(model.prompts())
    first, second, *_ = extra.further.unflatten(0, (4, 2))
    assert_same(text, ((first + second) / 2).tolist())
    assert torch.equal(first, model.prompts()) and torch.equal(extra.local_map, torch.eye(128))
    contexts = [model.prompts.context, *(prompts.context for prompts in model.own.further)]
    assert len({tuple(context.flatten().tolist()) for context in contexts}) == 4
    words = ClipOS(["cat", "dog"], "MicroCLIP", context=ContextOptions(words="a photo of a"), **given)
    for prompts in words.texts_of(words.prompts())[1].further.unflatten(0, (4, 2)):
        torch.testing.assert_close(prompts, words.class_text, rtol=0, atol=1e-5)
