"""Every score compared with its formula in double precision, image by image; its sign; its requirements."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.errors import InputError
from clipos_lightning.evaluation.heads import Head
from clipos_lightning.evaluation.memory import Memory
from clipos_lightning.evaluation.score_names import check_scores, defined_scores
from clipos_lightning.evaluation.scores import SCORES, ScoreOptions, compute_scores, needed_paths
from clipos_lightning.method.logits import ExtraTexts
from clipos_lightning.method.mask import MaskOptions
from clipos_lightning.types import ImageFeatures

MEMORY = ["knn", "mahalanobis", "knn_region", "mahalanobis_region"]
WITHOUT_UNKNOWN = ["msp", "mcm", "gl_mcm", "max_logit", "energy", "entropy", "mcm_region", "energy_region"]
REGION = [name for name in SCORES if "region" in name]
WITH_WORDS = ("neg_label", "csp")
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


def compared(which: str, feature: torch.Tensor, known: torch.Tensor, labels: torch.Tensor, options) -> float:
    """A base score of one feature against the images of a memory, by loops and an explicit inverse."""
    known = known.double()
    if which == "knn":
        nearest = sorted((float(feature @ image) for image in known), reverse=True)[: options.neighbors]
        return sum(nearest) / len(nearest)
    count, dim = int(labels.max()) + 1, known.shape[1]
    means = [known[labels == c].mean(0) for c in range(count)]
    spread = torch.zeros(dim, dim, dtype=torch.float64)
    for image, label in zip(known, labels, strict=True):
        difference = image - means[int(label)]
        spread += torch.outer(difference, difference) / (len(known) - count)
    a = options.shrinkage
    inverse = torch.linalg.inv((1 - a) * spread + a * spread.trace() / dim * torch.eye(dim))
    return -min(float((feature - m) @ inverse @ (feature - m)) ** 0.5 for m in means)


def neg_label_by_hand(logits: list[float], words: list[float], size: int) -> float:
    """NegLabel's mean over groups of words, as its logit."""
    groups = [words[i : i + size] for i in range(0, len(words), size)]
    classes = sum(math.exp(x) for x in logits)
    mean = sum(classes / (classes + sum(math.exp(x) for x in group)) for group in groups) / len(groups)
    return math.log(mean / (1 - mean))


def score_by_hand(name: str, features: ImageFeatures, i: int, text, class_text, options, memory, words) -> float:
    """The named score of image i, in double precision."""
    image = SimpleNamespace(**{key: t[i].double() for key, t in vars(features).items() if t is not None})
    text, class_text = text.double(), class_text.double()

    def of(feature: torch.Tensor, which: str, known: torch.Tensor = memory.features) -> float:
        if which in ("knn", "mahalanobis"):
            return compared(which, feature, known, memory.labels, options)
        return base(which, (text @ feature).tolist(), SCALE, options.temperature)

    if name.startswith("gl_mcm"):
        which = name.removeprefix("gl_")
        return of(image.cls, which) + options.local_weight * max(of(p, which) for p in image.patches_local)
    if SCORES[name].negatives:
        rows = [[SCALE * float(image.cls @ t) for t in rows.double()] for rows in (text[:CLASSES], words.negatives)]
        return neg_label_by_hand(*rows, options.group_size)
    if "_region" in name:
        which = name.replace("_region", "")
        own = class_text[int((text[:CLASSES] @ image.cls).argmax())]
        delta = normalised_map(image.patches_vv, own) - normalised_map(image.patches, own)
        r = sum(p for p, d in zip(image.patches_vv, delta, strict=True) if d > 0)
        return of(image.cls, which) + options.region_weight * of(r / r.norm(), which, memory.regions)
    return of(image.cls, name)


@pytest.fixture
def case(unit):
    """Features (B=6, P=9, D=8), prompts with "unknown" (C=4), frozen class prompts."""
    patches = (unit(6, 9, 8, seed=seed) for seed in (1, 2, 3))
    return ImageFeatures(unit(6, 8), *patches), unit(CLASSES + 1, 8, seed=4), unit(CLASSES, 8, seed=5)


@pytest.fixture
def memory(unit) -> Memory:
    """Nine images of the four classes, D=8."""
    return Memory(unit(9, 8, seed=6), unit(9, 8, seed=7), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 3]), torch.empty(0, 8))


@pytest.fixture
def words(unit) -> ExtraTexts:
    """Seven words that are none of the classes, D=8."""
    return ExtraTexts(negatives=unit(7, 8, seed=9))


OPTIONS = [ScoreOptions(), ScoreOptions(0.05, 0.3, 2.5, 2, 0.5, 3), ScoreOptions(7.0, 0.0, 0.0, 50, 1.0)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", SCORES)
def test_score_equals_its_formula(case, memory, words, name, options):
    features, text, class_text = case
    known = memory.references(options.neighbors, options.shrinkage)
    scores, cosine = compute_scores([name], features, text, class_text, SCALE, MaskOptions(), options, known, words)
    expected = [score_by_hand(name, features, i, text, class_text, options, memory, words) for i in range(6)]
    assert list(scores) == [name]
    torch.testing.assert_close(scores[name], torch.tensor(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cosine, features.cls @ text[:CLASSES].T)


def test_there_are_twenty_one_scores_and_all_at_once_equal_each_alone(case, memory, words):
    assert len(SCORES) == 21
    features, *text = case
    constants = (SCALE, MaskOptions(), ScoreOptions(), memory.references(5, 0.9), words)
    together, _ = compute_scores(list(SCORES), features, *text, *constants)
    assert list(together) == list(SCORES)
    for name, values in together.items():
        alone, _ = compute_scores([name], features, *text, *constants)
        assert torch.equal(values, alone[name]), name


def test_scores_without_an_unknown_prompt_ignore_it(case):
    features, text, class_text = case
    for given in (text, text[:CLASSES]):
        scores, _ = compute_scores(WITHOUT_UNKNOWN, features, given, class_text, SCALE, MaskOptions(), ScoreOptions())
        expected = compute_scores(WITHOUT_UNKNOWN, features, text, class_text, SCALE, MaskOptions(), ScoreOptions())[0]
        assert all(torch.equal(scores[name], expected[name]) for name in WITHOUT_UNKNOWN)


@pytest.mark.parametrize("kind", ["none", "top_k", "surgery"])
def test_the_region_follows_the_mask(case, memory, kind):
    features, text, class_text = case
    mask, options, known = MaskOptions(kind), ScoreOptions(), memory.references(5, 0.9)
    scores, _ = compute_scores(REGION, features, text, class_text, SCALE, mask, options, known)
    usual, _ = compute_scores(REGION, features, text, class_text, SCALE, MaskOptions(), options, known)
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

    unlike = ExtraTexts(negatives=prompts[-1:])
    known = Memory(prompts[:4], prompts[:4], torch.arange(4), prompts[:0]).references(1, 0.9)  # the classes themselves

    def of(features: ImageFeatures) -> float:
        scores, _ = compute_scores(
            [name], features, prompts, prompts[:4], SCALE, MaskOptions(), ScoreOptions(), known, unlike
        )
        return float(scores[name])

    values = [of(looking_like(x)) for x in (0.1, 0.3, 0.6, 0.9)]
    assert values == sorted(set(values))
    values = [of(looking_like(0.5, u)) for u in (0.7, 0.4, 0.1)]
    compares = SCORES[name].unknown or SCORES[name].negatives  # the negative word is "unknown" here
    assert values == sorted(set(values)) if compares else len(set(values)) == 1


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": 0}, "neighbors is 0: take at least 1"),
        ({"shrinkage": 0.0}, r"shrinkage is 0.0: take .* \(0, 1\]"),
    ],
)
def test_constants_of_the_memory_scores_are_checked(options, message):
    with pytest.raises(InputError, match=rf"--model\.scoring\.{message}"):
        ScoreOptions(**options)


def test_one_image_a_class_has_no_covariance(unit):
    features = unit(3, 8)
    reference, _ = Memory(features, features, torch.arange(3), features[:0]).references(5, 0.9)
    torch.testing.assert_close(reference.distances(unit(4, 8, seed=1)), torch.cdist(unit(4, 8, seed=1), features))


def test_the_constants_of_a_head_reach_its_memory_scores(case, memory):
    features, text, class_text = case
    options = ScoreOptions(neighbors=2, shrinkage=0.4)
    head = Head("", text, class_text, SCALE, MEMORY, SurgeryOptions(), MaskOptions(), options, memory)
    arguments = (MEMORY, features, text, class_text, SCALE, MaskOptions(), options)
    expected, _ = compute_scores(*arguments, memory.references(2, 0.4))
    assert {name: scores.tolist() for name, scores in head.score(features)[0].items()} == {
        name: scores.tolist() for name, scores in expected.items()
    }


def test_the_distance_of_a_class_mean_to_itself_is_a_number(unit):
    """Rounding makes some of the squares negative."""
    features = unit(40, 64)
    reference, _ = Memory(features, features, torch.arange(40), features[:0]).references(5, 0.9)
    distances = reference.distances(features)
    assert distances.isfinite().all() and float(distances.diagonal().max()) < 1e-2


def test_a_memory_in_chunks_is_the_whole(unit, memory, monkeypatch):
    reference, _ = memory.references(3, 0.9)
    items = unit(5, 7, 8, seed=8)
    expected = reference.likeness(items)
    monkeypatch.setattr("clipos_lightning.utils.chunks.CHUNK_BYTES", 100)
    torch.testing.assert_close(reference.likeness(items), expected)


def test_check_scores_names_what_there_is():
    assert defined_scores(False) == WITHOUT_UNKNOWN
    assert defined_scores(False, has_memory=True) == WITHOUT_UNKNOWN + MEMORY
    assert defined_scores(True) == [name for name in SCORES if name not in (*MEMORY, *WITH_WORDS)]
    for own, other in (WITH_WORDS, reversed(WITH_WORDS)):
        assert defined_scores(False, negatives=own) == [*WITHOUT_UNKNOWN, own]
        assert defined_scores(True, True, own) == [name for name in SCORES if name != other]
        check_scores(defined_scores(True, True, own), True, own, "--model.scores")
        with pytest.raises(InputError, match=rf"'{other}' compares with words .*, or take the score {own}$"):
            check_scores([other], True, own, "--model.score")
    check_scores(WITHOUT_UNKNOWN + MEMORY, False, None, "--model.scores")
    with pytest.raises(InputError, match=r"'csp' needs words .*: give --model.negatives csp$"):
        check_scores(["csp"], True, None, "--model.score")
    with pytest.raises(InputError, match=r"'neg_label' needs words that are none of the classes: give --model.neg"):
        check_scores(["neg_label"], True, None, "--model.score")
    with pytest.raises(InputError, match=r"^--model.score 'mps' is not a score: take one of msp, mcm, .*unknown"):
        check_scores(["msp", "mps"], True, None, "--model.score")
    with pytest.raises(
        InputError, match=r"'unknown' needs an unknown prompt.*energy_region, knn, .*, or package.module.function$"
    ):
        check_scores(["unknown"], False, None, "--model.score")


def test_every_score_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")
    assert [name for name in SCORES if f"`{name}`" not in text] == []
