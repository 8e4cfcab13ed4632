"""Every score compared with its formula in double precision, image by image; its sign; its requirements."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clipos_lightning.errors import InputError
from clipos_lightning.evaluation.scores import (
    SCORES,
    ScoreOptions,
    check_scores,
    compute_scores,
    defined_scores,
    needed_paths,
)
from clipos_lightning.method.mask import MaskOptions
from clipos_lightning.types import ImageFeatures

WITHOUT_UNKNOWN = ["msp", "mcm", "gl_mcm", "max_logit", "energy", "entropy", "mcm_region", "energy_region"]
REGION = [name for name in SCORES if "region" in name]
SCALE, CLASSES = 20.0, 4


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(x - max(row)) for x in row]
    return [p / sum(powers) for p in powers]


def logsumexp(row: list[float]) -> float:
    return max(row) + math.log(sum(math.exp(x - max(row)) for x in row))


def base(name: str, cosines: list[float], scale: float, temperature: float) -> float:
    """A base score of one feature's cosines to C classes and "unknown"."""
    cosine, lu = cosines[:CLASSES], scale * cosines[CLASSES]
    logits = [scale * x for x in cosine]
    p_unknown = softmax([*logits, lu])[-1]
    p = softmax(logits)
    return {
        "msp": lambda: math.log(max(p)),
        "mcm": lambda: max(softmax([x / temperature for x in cosine])),
        "max_logit": lambda: max(logits),
        "energy": lambda: logsumexp(logits),
        "entropy": lambda: sum(x * math.log(x) for x in p),
        "unknown": lambda: logsumexp(logits) - lu,
        "msp_unknown": lambda: math.log(max(softmax([*logits, lu])[:-1])),
        "mcm_unknown": lambda: max(softmax([x / temperature for x in cosines])[:-1]),
        "energy_unknown": lambda: logsumexp(logits) + math.log(1 - p_unknown),
    }[name]()


def normalised_map(patches: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    s = patches @ text
    return (s - s.min()) / (s.max() - s.min())


def score_by_hand(name: str, features: ImageFeatures, i: int, text, class_text, options: ScoreOptions) -> float:
    """The named score of image i, in double precision."""
    image = SimpleNamespace(**{key: t[i].double() for key, t in vars(features).items()})
    text, class_text = text.double(), class_text.double()

    def of(feature: torch.Tensor, which: str) -> float:
        return base(which, (text @ feature).tolist(), SCALE, options.temperature)

    if name.startswith("gl_mcm"):
        which = name.removeprefix("gl_")
        return of(image.cls, which) + options.local_weight * max(of(p, which) for p in image.patches_local)
    if "_region" in name:
        which = name.replace("_region", "")
        own = class_text[int((text[:CLASSES] @ image.cls).argmax())]
        delta = normalised_map(image.patches_vv, own) - normalised_map(image.patches, own)
        r = sum(p for p, d in zip(image.patches_vv, delta, strict=True) if d > 0)
        return of(image.cls, which) + options.region_weight * of(r / r.norm(), which)
    return of(image.cls, name)


@pytest.fixture
def case(unit):
    """Features (B=6, P=9, D=8), prompts with "unknown" (C=4), frozen class prompts."""
    patches = (unit(6, 9, 8, seed=seed) for seed in (1, 2, 3))
    return ImageFeatures(unit(6, 8), *patches), unit(CLASSES + 1, 8, seed=4), unit(CLASSES, 8, seed=5)


@pytest.mark.parametrize("options", [ScoreOptions(), ScoreOptions(0.05, 0.3, 2.5), ScoreOptions(7.0, 0.0, 0.0)])
@pytest.mark.parametrize("name", SCORES)
def test_score_equals_its_formula(case, name, options):
    features, text, class_text = case
    scores, cosine = compute_scores([name], features, text, class_text, SCALE, MaskOptions(), options)
    expected = [score_by_hand(name, features, i, text, class_text, options) for i in range(6)]
    assert list(scores) == [name]
    torch.testing.assert_close(scores[name], torch.tensor(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cosine, features.cls @ text[:CLASSES].T)


def test_there_are_fifteen_scores_and_all_at_once_equal_each_alone(case):
    assert len(SCORES) == 15
    features, text, class_text = case
    together, _ = compute_scores(list(SCORES), features, text, class_text, SCALE, MaskOptions(), ScoreOptions())
    assert list(together) == list(SCORES)
    for name, values in together.items():
        alone, _ = compute_scores([name], features, text, class_text, SCALE, MaskOptions(), ScoreOptions())
        assert torch.equal(values, alone[name]), name


def test_scores_without_an_unknown_prompt_ignore_it(case):
    features, text, class_text = case
    for given in (text, text[:CLASSES]):
        scores, _ = compute_scores(WITHOUT_UNKNOWN, features, given, class_text, SCALE, MaskOptions(), ScoreOptions())
        expected = compute_scores(WITHOUT_UNKNOWN, features, text, class_text, SCALE, MaskOptions(), ScoreOptions())[0]
        assert all(torch.equal(scores[name], expected[name]) for name in WITHOUT_UNKNOWN)


@pytest.mark.parametrize("kind", ["none", "top_k", "surgery"])
def test_the_region_follows_the_mask(case, kind):
    features, text, class_text = case
    mask, options = MaskOptions(kind), ScoreOptions()
    scores, _ = compute_scores(REGION, features, text, class_text, SCALE, mask, options)
    usual, _ = compute_scores(REGION, features, text, class_text, SCALE, MaskOptions(), options)
    assert all(not torch.equal(scores[name], usual[name]) for name in REGION)
    if kind == "none":
        whole = F.normalize(features.patches_vv.sum(1), dim=1)
        expected = sum(torch.logsumexp(SCALE * f @ text[:CLASSES].T, 1) for f in (features.cls, whole))
        torch.testing.assert_close(scores["energy_region"], expected)


def looking_like(first: float, unknown_share: float = 0.0) -> ImageFeatures:
    """Images whose every feature has these cosines to class 0 and to "unknown", 0 to the other classes."""
    rest = math.sqrt(1 - first**2 - unknown_share**2)
    f = torch.tensor([first, 0, 0, 0, unknown_share, rest])
    return ImageFeatures(f[None], *(f.expand(1, 4, 6) for _ in range(3)))


@pytest.mark.parametrize("name", SCORES)
def test_higher_is_more_in_distribution(name):
    prompts = torch.eye(6)[: CLASSES + 1]

    def of(features: ImageFeatures) -> float:
        scores, _ = compute_scores([name], features, prompts, prompts[:4], SCALE, MaskOptions(), ScoreOptions())
        return float(scores[name])

    values = [of(looking_like(x)) for x in (0.1, 0.3, 0.6, 0.9)]
    assert values == sorted(set(values))
    values = [of(looking_like(0.5, u)) for u in (0.7, 0.4, 0.1)]
    assert values == sorted(set(values)) if SCORES[name].unknown else len(set(values)) == 1


@pytest.mark.parametrize(
    ("names", "mask", "paths"),
    [
        (["msp", "energy_unknown", "max_logit"], "discrepancy", set()),
        (["gl_mcm"], "discrepancy", {"local"}),
        (["mcm_region"], "discrepancy", {"vv", "clip"}),
        (["mcm_region"], "clip", {"vv", "clip"}),
        (["energy_region_unknown", "msp"], "none", {"vv"}),
        (["energy_region"], "top_k", {"vv"}),
        (["gl_mcm_unknown", "energy_region"], "surgery", {"local", "vv"}),
    ],
)
def test_needed_paths_suffice_and_are_all_needed(case, names, mask, paths):
    features, text, class_text = case
    assert needed_paths(names, MaskOptions(mask)) == paths
    fields = {"clip": "patches", "vv": "patches_vv", "local": "patches_local"}
    given = ImageFeatures(features.cls, **{fields[p]: getattr(features, fields[p]) for p in paths})
    compute_scores(names, given, text, class_text, SCALE, MaskOptions(mask), ScoreOptions())
    for path in paths:
        less = ImageFeatures(features.cls, **{fields[p]: getattr(features, fields[p]) for p in paths - {path}})
        with pytest.raises(ValueError, match=f"path '{path}' were not computed"):
            compute_scores(names, less, text, class_text, SCALE, MaskOptions(mask), ScoreOptions())


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_above_0_is_refused(temperature):
    with pytest.raises(InputError, match=rf"--model\.scoring\.temperature is {temperature}:"):
        ScoreOptions(temperature=temperature)


def test_check_scores_names_what_there_is():
    assert defined_scores(False) == WITHOUT_UNKNOWN
    assert defined_scores(True) == list(SCORES)
    check_scores(SCORES, True, "--model.scores")
    check_scores(WITHOUT_UNKNOWN, False, "--model.scores")
    with pytest.raises(InputError, match=r"^--model.score 'mps' is not a score: take one of msp, mcm, .*unknown"):
        check_scores(["msp", "mps"], True, "--model.score")
    with pytest.raises(
        InputError, match=r"'unknown' needs an unknown prompt.*energy_region, or package.module.function$"
    ):
        check_scores(["unknown"], False, "--model.score")


def test_every_score_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")
    assert [name for name in SCORES if f"`{name}`" not in text] == []
