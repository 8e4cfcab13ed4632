"""OOD scores: higher = more in-distribution, one sign everywhere, fp32 whatever the precision.

A base score is a function of one feature's evidence: cosines to the C class prompts, the cosine to "unknown", the
model's scale s. ``SCORES`` says on which features each named score evaluates it: the class token alone, with the best
local patch (GL-MCM), or with the region of ID-relevant patches (CLIP-OS's own).
"""

import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..method.mask import MaskOptions, region_feature, relevant_patches
from ..types import Features, ImageFeatures, Patches, PathName, Texts
from ..utils.chunks import by_chunks
from ..utils.imports import load_object


@dataclass(frozen=True)
class ScoreOptions:
    """Constants of the scores.

    Attributes:
        temperature: T, divides the cosine in mcm and gl_mcm (1 as MCM's authors: the raw cosine).
        local_weight: of the best local patch in gl_mcm.
        region_weight: of the region in the region scores.
    """

    temperature: float = 1.0
    local_weight: float = 1.0
    region_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"--model.scoring.temperature is {self.temperature}: it must be above 0")


@dataclass
class Logits:
    """One feature (or each of several, in leading dimensions) against one detector's prompts.

    Attributes:
        cosine: to the C class prompts, (..., C).
        unknown: to "unknown", (...,), or None where the detector has no such prompt.
        scale: s of the model; logits are s times cosine.
        temperature: of mcm.
    """

    cosine: Float[Tensor, "*items classes"]
    unknown: Float[Tensor, "*items"] | None
    scale: float
    temperature: float = 1.0

    @property
    def logits(self) -> Tensor:
        """l_c = s cos(f, t_c)."""
        return self.scale * self.cosine

    @property
    def unknown_logit(self) -> Tensor:
        """l_u = s cos(f, t_unknown)."""
        assert self.unknown is not None, "this detector has no unknown prompt"
        return self.scale * self.unknown


def prompt_logits(
    feature: Float[Tensor, "*items dim"], text: Texts, classes: int, scale: float, t: float = 1.0
) -> Logits:
    """Cosines of features to C class prompts and, where ``text`` has a row more, to "unknown"."""
    cosine = feature @ text.T
    return Logits(cosine[..., :classes], cosine[..., classes] if len(text) > classes else None, scale, t)


def msp(e: Logits) -> Tensor:
    """log max_c softmax(l)_c as -log(1 + sum over the others of exp(l_c - l_max)), which does not saturate."""
    return log_share(e.logits, e.logits)


def msp_unknown(e: Logits) -> Tensor:
    """msp with "unknown" in the denominator."""
    return log_share(e.logits, torch.cat([e.logits, e.unknown_logit[..., None]], -1))


def log_share(logits: Tensor, denominator: Tensor) -> Tensor:
    """log of the best class's softmax over ``denominator``, which holds ``logits`` first and may hold more."""
    best = logits.argmax(-1, keepdim=True)
    others = (denominator - logits.gather(-1, best)).scatter(-1, best, -torch.inf)
    return -F.softplus(torch.logsumexp(others, -1))


def mcm(e: Logits) -> Tensor:
    """max_c softmax(cos / T)_c (MCM, Ming et al. 2022)."""
    return (e.cosine / e.temperature).softmax(-1).amax(-1)


def mcm_unknown(e: Logits) -> Tensor:
    """mcm with "unknown" in the denominator."""
    assert e.unknown is not None, "this detector has no unknown prompt"
    both = torch.cat([e.cosine, e.unknown[..., None]], -1) / e.temperature
    return both.softmax(-1)[..., :-1].amax(-1)


def max_logit(e: Logits) -> Tensor:
    """max_c l_c (Hendrycks et al. 2022)."""
    return e.logits.amax(-1)


def energy(e: Logits) -> Tensor:
    """logsumexp_c l_c (negative free energy, Liu et al. 2020)."""
    return torch.logsumexp(e.logits, -1)


def entropy(e: Logits) -> Tensor:
    """-H(softmax(l)) over the classes."""
    log_p = e.logits.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1)


def unknown(e: Logits) -> Tensor:
    """logsumexp_c l_c - l_u: the order of 1 - p(unknown) without the ties that fp32 makes of it."""
    return energy(e) - e.unknown_logit


def energy_unknown(e: Logits) -> Tensor:
    """e + logsigmoid(e - l_u) with e the energy: e + log(1 - p(unknown)); keeps the evidence's size (our own)."""
    size = energy(e)
    return size + F.logsigmoid(size - e.unknown_logit)


BaseScore = Callable[[Logits], Tensor]


@dataclass(frozen=True)
class Score:
    """A named score: a base score, on which features, and whether it needs the unknown prompt."""

    base: BaseScore
    on: Literal["cls", "local", "region"] = "cls"
    unknown: bool = False


SCORES: dict[str, Score] = {
    "msp": Score(msp),
    "mcm": Score(mcm),
    "gl_mcm": Score(mcm, on="local"),
    "max_logit": Score(max_logit),
    "energy": Score(energy),
    "entropy": Score(entropy),
    "unknown": Score(unknown, unknown=True),
    "msp_unknown": Score(msp_unknown, unknown=True),
    "mcm_unknown": Score(mcm_unknown, unknown=True),
    "gl_mcm_unknown": Score(mcm_unknown, on="local", unknown=True),
    "energy_unknown": Score(energy_unknown, unknown=True),
    "mcm_region": Score(mcm, on="region"),
    "energy_region": Score(energy, on="region"),
    "mcm_region_unknown": Score(mcm_unknown, on="region", unknown=True),
    "energy_region_unknown": Score(energy_unknown, on="region", unknown=True),
}


@cache
def find_score(name: str) -> Score:
    """A score by its name in ``SCORES``, or one's own by its dotted path: a ``Score``, or a function of an Evidence.

    Raises:
        InputError: no such module or name, or neither a Score nor a function.
    """
    if name in SCORES or "." not in name:
        return SCORES[name]
    found = load_object(name, "--model.scores")
    if not isinstance(found, Score) and not callable(found):
        raise InputError(f"--model.scores {name}: neither a clipos_lightning.scores.Score nor a function")
    score = found if isinstance(found, Score) else Score(found)
    try_score(name, score)
    return score


def try_score(name: str, score: Score) -> None:
    """One's own score on two small examples, so that a slip is said before any image is read.

    Raises:
        InputError: it fails, or does not give one number an item.
    """
    for items in ((2,), (2, 4)):
        unknown = torch.linspace(0.1, 0.2, 8)[: math.prod(items)].reshape(items)
        example = Logits(torch.linspace(-0.2, 0.5, 3).expand(*items, 3), unknown if score.unknown else None, 20.0)
        try:
            values = score.base(example)
        except Exception as error:  # whatever a function of the user's does
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {' '.join(str(error).split())} ({where.filename}, line {where.lineno})"
            raise InputError(f"--model.scores {name} fails on a small example: {what}") from error
        if not isinstance(values, Tensor) or values.shape != items:
            got = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"--model.scores {name} gives {got} for items of shape {items}: one number an item is wanted"
            )


def defined_scores(has_unknown: bool) -> list[str]:
    """The scores that a detector with or without an unknown prompt has."""
    return [name for name, score in SCORES.items() if has_unknown or not score.unknown]


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of ``SCORES``, then one's own as they come."""
    given = list(dict.fromkeys(names))
    return [name for name in SCORES if name in given] + [name for name in given if name not in SCORES]


def check_scores(names: Iterable[str], has_unknown: bool, option: str) -> None:
    """All names are scores that such a detector has, or an InputError that lists them."""
    defined = defined_scores(has_unknown)
    for name in names:
        known = name in SCORES or "." in name
        if not known or (find_score(name).unknown and not has_unknown):
            why = "needs an unknown prompt, which this objective has not" if known else "is not a score"
            raise InputError(f"{option} {name!r} {why}: take one of {', '.join(defined)}, or package.module.function")


def needed_paths(names: Iterable[str], mask: MaskOptions) -> frozenset[PathName]:
    """The backbone's paths that these scores look at; patch features that none needs are not computed."""
    kinds = {find_score(name).on for name in names}
    local: set[PathName] = {"local"} if "local" in kinds else set()
    region: set[PathName] = {"vv", *mask.paths} if "region" in kinds else set()
    return frozenset(local | region)


def compute_scores(
    names: Sequence[str],
    features: ImageFeatures,
    text: Texts,
    class_text: Float[Tensor, "classes dim"],
    scale: float,
    mask: MaskOptions,
    options: ScoreOptions,
) -> tuple[dict[str, Float[Tensor, " batch"]], Float[Tensor, "batch classes"]]:
    """Scores of a batch under one detector.

    Args:
        names: of ``SCORES``, or dotted paths.
        features: with the paths that :func:`needed_paths` names.
        text: the detector's prompts, (C, D) or (C + 1, D) with "unknown" last.
        class_text: the frozen class prompts of the mask, (C, D).
        scale: s.
        mask: which patches are the region: those of the predicted class.
        options: temperature and weights.

    Returns:
        name to score (B,), and the class token's cosines (B, C), whose argmax is the predicted class.
    """
    classes = len(class_text)

    def weigh(feature: Tensor) -> Logits:
        return prompt_logits(feature, text, classes, scale, options.temperature)

    chosen = {name: find_score(name) for name in names}
    on = {score.on for score in chosen.values()}
    cls = weigh(features.cls)
    locals_ = {name: score.base for name, score in chosen.items() if score.on == "local"}
    best = best_local(locals_, features.path("local"), weigh, len(text)) if locals_ else {}
    region = weigh(region_of(features, class_text, cls.cosine.argmax(-1), mask)) if "region" in on else None
    scores = {}
    for name, score in chosen.items():
        scores[name] = score.base(cls)
        if score.on == "local":
            scores[name] = scores[name] + options.local_weight * best[name]
        if score.on == "region" and region is not None:
            scores[name] = scores[name] + options.region_weight * score.base(region)
    return scores, cls.cosine


def best_local(
    bases: dict[str, BaseScore], patches: Patches, weigh: Callable[[Tensor], Logits], prompts: int
) -> dict[str, Float[Tensor, " batch"]]:
    """Each base score of the best local patch, images a part at a time."""

    def best(part: Tensor) -> Tensor:
        seen = weigh(part)
        return torch.stack([base(seen).amax(-1) for base in bases.values()], 1)

    values = by_chunks(best, (patches,), 4 * prompts * patches.shape[1])
    return dict(zip(bases, values.unbind(1), strict=True))


def region_of(features: ImageFeatures, class_text: Texts, predicted: Tensor, mask: MaskOptions) -> Features:
    """r: the normalised sum of the surgery path's patches that are ID-relevant for the predicted class."""
    return region_feature(features.path("vv"), relevant_patches(features, class_text, predicted, mask))
