"""The named scores: which base score on which features of an image; higher = more in-distribution, in fp32.

A base score (see :mod:`.base_scores`) is a function of one feature's cosines to the prompts. ``SCORES`` defines on
which features each named score evaluates it: the global feature alone, with the best local patch (GL-MCM, Miyai et al.
2023, arXiv:2304.04521), or with the region of ID-relevant patches (ours, by the mask of CLIP-OS, arXiv:2404.00323).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..method.mask import MaskOptions, region_feature, relevant_patches
from ..types import ClassTexts, ImageFeatures, Patches, PathName, Texts, WordTexts
from ..utils.chunks import by_chunks
from ..utils.imports import describe_failure, load_object
from .base_scores import (
    BaseScore,
    Logits,
    energy,
    energy_unknown,
    entropy,
    knn,
    mahalanobis,
    max_logit,
    mcm,
    mcm_unknown,
    msp,
    msp_unknown,
    neg_label,
    prompt_logits,
    unknown,
)
from .memory import Reference


@dataclass(frozen=True)
class ScoreOptions:
    """Constants of the scores.

    Attributes:
        temperature: T, divides the cosines in the mcm and gl_mcm scores, above 0; 1: raw cosines, as MCM's authors.
        local_weight: weight of the best local patch's score in the gl_mcm scores.
        region_weight: weight of the region's score in the region scores.
        neighbors: k of the knn scores, at least 1.
        shrinkage: of the covariance in the mahalanobis scores towards a multiple of the identity, in (0, 1].
        group_size: number of negative words in each group of neg_label, at least 1.

    Raises:
        InputError: an option is outside its range.

    Example:
        >>> from clipos_lightning import ScoreOptions
        >>> ScoreOptions(region_weight=0.5).temperature
        1.0
    """

    temperature: float = 1.0
    local_weight: float = 1.0
    region_weight: float = 1.0
    neighbors: int = 5
    shrinkage: float = 0.9
    group_size: int = 100

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"--model.scoring.temperature is {self.temperature}: take a number above 0")
        if self.neighbors < 1:
            raise InputError(f"--model.scoring.neighbors is {self.neighbors}: take at least 1")
        if self.group_size < 1:
            raise InputError(f"--model.scoring.group_size is {self.group_size}: take at least 1")
        if not 0 < self.shrinkage <= 1:
            raise InputError(f"--model.scoring.shrinkage is {self.shrinkage}: take a number in (0, 1]")


@dataclass(frozen=True)
class Score:
    """A score: a base score, the features it is evaluated on, and whether it needs the "unknown" prompt.

    Attributes:
        base: maps :class:`.base_scores.Logits` of (...) items to one number per item, higher = more in-distribution.
        on: ``cls`` (the global feature), ``local`` (plus the weighted maximum over local patches) or ``region`` (plus
            the weighted score of the ID-relevant region of the predicted class).
        unknown: whether it needs the "unknown" prompt.
        memory: whether it compares with ID images, ``Logits.memory``: the few-shot images, and those of ``clipos
            calibrate --memory``.
        negatives: whether it compares with words that are none of the classes, ``Logits.negatives``.

    Example:
        >>> from clipos_lightning import Score
        >>> second_best = Score(lambda z: -z.logits.topk(2).values[..., 1], on="region")
        >>> second_best.base(Logits(torch.tensor([[0.3, 0.1]]), None, scale=10.0))
        tensor([-1.])
    """

    base: BaseScore
    on: Literal["cls", "local", "region"] = "cls"
    unknown: bool = False
    memory: bool = False
    negatives: bool = False


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
    "neg_label": Score(neg_label, negatives=True),
    "knn": Score(knn, memory=True),
    "mahalanobis": Score(mahalanobis, memory=True),
    "knn_region": Score(knn, on="region", memory=True),
    "mahalanobis_region": Score(mahalanobis, on="region", memory=True),
}


@cache
def find_score(name: str) -> Score:
    """Find a score by its name in ``SCORES``, or a user-defined one (a ``Score`` or a function) by its dotted path.

    Raises:
        InputError: no such module or name, neither a Score nor a function, or it fails on a small example.

    Example:
        >>> find_score("gl_mcm").on, find_score("energy_unknown").unknown
        ('local', True)
    """
    if name in SCORES or "." not in name:
        return SCORES[name]
    loaded = load_object(name, "--model.scores")
    if not isinstance(loaded, Score) and not callable(loaded):
        raise InputError(f"--model.scores {name}: neither a clipos_lightning.Score nor a function")
    score = loaded if isinstance(loaded, Score) else Score(loaded)
    try_score(name, score)
    return score


def try_score(name: str, score: Score) -> None:
    """Run a user-defined score on two small inputs so that mistakes fail fast.

    Raises:
        InputError: it fails, or does not return one number per item.
    """
    for items in ((2,), (2, 4)):
        unknown = torch.linspace(0.1, 0.2, 8)[: math.prod(items)].reshape(items)
        example = Logits(torch.linspace(-0.2, 0.5, 3).expand(*items, 3), unknown if score.unknown else None, 20.0)
        if score.memory:
            example.feature = F.normalize(torch.linspace(-1, 1, 4 * math.prod(items)).reshape(*items, 4), dim=-1)
            example.memory = Reference(torch.eye(4)[:3], torch.arange(3), neighbors=2, shrinkage=0.9)
        if score.negatives:
            example.negatives = torch.linspace(-0.1, 0.3, 2).expand(*items, 2)
        try:
            values = score.base(example)
        except (Exception, SystemExit) as error:  # a user's function may raise anything, or end the program
            raise InputError(f"--model.scores {name} fails on a small example: {describe_failure(error)}") from error
        if not isinstance(values, Tensor) or values.shape != items:
            got = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"--model.scores {name} gives {got} for items of shape {items}: expected one score per item"
            )


def default_score(has_unknown: bool) -> str:
    """The detector's score if none is chosen: ``msp_unknown``, or ``msp`` without an "unknown" prompt."""
    return "msp_unknown" if has_unknown else "msp"


def reported_scores(
    chosen: Sequence[str] | None, score: str, has_unknown: bool, has_memory: bool = False, has_negatives: bool = False
) -> list[str]:
    """The scores of a report: the chosen ones, else all that are defined; the detector's score is always included.

    Example:
        >>> reported_scores(["energy"], "msp", has_unknown=False)
        ['energy', 'msp']
    """
    return list(dict.fromkeys([*(chosen or defined_scores(has_unknown, has_memory, has_negatives)), score]))


def defined_scores(has_unknown: bool, has_memory: bool = False, has_negatives: bool = False) -> list[str]:
    """Names of the scores of a detector with or without an "unknown" prompt, a memory of ID images, negative words.

    Example:
        >>> defined_scores(has_unknown=False)[:3], len(defined_scores(has_unknown=True, has_memory=True))
        (['msp', 'mcm', 'gl_mcm'], 19)
    """
    missing = {"unknown": not has_unknown, "memory": not has_memory, "negatives": not has_negatives}
    needs = [part for part, is_missing in missing.items() if is_missing]
    return [name for name, score in SCORES.items() if not any(getattr(score, part) for part in needs)]


def without_memory(names: Iterable[str]) -> list[str]:
    """The scores that need no memory of ID images.

    Example:
        >>> without_memory(["knn", "msp"])
        ['msp']
    """
    return [name for name in names if not find_score(name).memory]


def in_order(names: Iterable[str]) -> list[str]:
    """Unique names in the order of ``SCORES``, then user-defined ones in the given order.

    Example:
        >>> in_order(["my_parts.margin", "energy", "msp"])
        ['msp', 'energy', 'my_parts.margin']
    """
    given = list(dict.fromkeys(names))
    return [name for name in SCORES if name in given] + [name for name in given if name not in SCORES]


def check_scores(names: Iterable[str], has_unknown: bool, has_negatives: bool, option: str) -> None:
    """Check that a detector with or without an "unknown" prompt and negative words has all these scores.

    Raises:
        InputError: a name is unknown, or its score needs what is missing; lists the scores to choose from.
    """
    defined = defined_scores(has_unknown, True, has_negatives)
    for name in names:
        if (name in SCORES or "." in name) and find_score(name).negatives and not has_negatives:
            raise InputError(f"{option} {name!r} needs words that are none of the classes: give --model.negatives FILE")
        known = name in SCORES or "." in name
        if not known or (find_score(name).unknown and not has_unknown):
            why = "needs an unknown prompt, which this objective does not have" if known else "is not a score"
            raise InputError(f"{option} {name!r} {why}: take one of {', '.join(defined)}, or package.module.function")


def needed_paths(names: Iterable[str], mask: MaskOptions) -> frozenset[PathName]:
    """The backbone's paths that these scores need; other patch features are not computed.

    Example:
        >>> sorted(needed_paths(["energy_region"], MaskOptions())), sorted(needed_paths(["msp"], MaskOptions()))
        (['clip', 'vv'], [])
    """
    kinds = {find_score(name).on for name in names}
    local: set[PathName] = {"local"} if "local" in kinds else set()
    region: set[PathName] = {"vv", *mask.paths} if "region" in kinds else set()
    return frozenset(local | region)


def compute_scores(
    names: Sequence[str],
    features: ImageFeatures,
    text: Texts,
    class_text: ClassTexts,
    scale: float,
    mask: MaskOptions,
    options: ScoreOptions,
    memory: tuple[Reference, Reference] | None = None,
    negatives: WordTexts | None = None,
) -> tuple[dict[str, Float[Tensor, " batch"]], Float[Tensor, "batch classes"]]:
    """Scores of a batch under one detector.

    ``local`` scores add local_weight times the maximum over the local patches, ``region`` scores add region_weight
    times the score of r = normalise(sum of the surgery path's ID-relevant patches for the predicted class).

    Args:
        names: of ``SCORES``, or dotted paths.
        features: with the paths of :func:`needed_paths`.
        text: the detector's prompts, (C, D) or (C + 1, D) with "unknown" last.
        class_text: the frozen class prompts of the mask, (C, D).
        scale: s.
        mask: which patches are ID-relevant.
        options: constants of the scores.
        memory: ID images to compare global features with, and regions; needed by scores with ``memory``.
        negatives: features of words that are none of the classes, (N, D); needed by scores with ``negatives``.

    Returns:
        name to score (B,), and the global feature's cosines (B, C), whose argmax is the predicted class.

    Example:
        >>> text, vv, clip = torch.eye(2), torch.eye(2)[None], torch.eye(2).flip(0)[None]
        >>> features = ImageFeatures(cls=text[:1], patches=clip, patches_vv=vv, patches_local=vv)
        >>> names = ["mcm", "gl_mcm", "mcm_region"]
        >>> compute_scores(names, features, text, text, 10.0, MaskOptions(), ScoreOptions())[0]  # 1 / (1 + e^-1)
        {'mcm': tensor([0.7311]), 'gl_mcm': tensor([1.4621]), 'mcm_region': tensor([1.4621])}
    """
    classes = len(class_text)
    images, regions = memory or (None, None)

    chosen = {name: find_score(name) for name in names}
    words = negatives if any(score.negatives for score in chosen.values()) else None

    def logits_of(feature: Tensor, reference: Reference | None = images) -> Logits:
        found = prompt_logits(feature, text, classes, scale, options.temperature, reference)
        return found if words is None else replace(found, negatives=feature @ words.T, group_size=options.group_size)

    cls = logits_of(features.cls)
    bases = {name: score.base for name, score in chosen.items() if score.on == "local"}
    columns = len(text) if words is None else len(text) + len(words)
    best = best_local(bases, features.path("local"), logits_of, columns) if bases else {}
    region = None
    if any(score.on == "region" for score in chosen.values()):
        patches = features.path("vv")
        relevant = relevant_patches(features, class_text, cls.cosine.argmax(-1), mask)
        region = logits_of(region_feature(patches, relevant), regions)
    scores = {}
    for name, score in chosen.items():
        scores[name] = score.base(cls)
        if score.on == "local":
            scores[name] = scores[name] + options.local_weight * best[name]
        if score.on == "region" and region is not None:
            scores[name] = scores[name] + options.region_weight * score.base(region)
    return scores, cls.cosine


def best_local(
    bases: dict[str, BaseScore], patches: Patches, logits_of: Callable[[Tensor], Logits], prompts: int
) -> dict[str, Float[Tensor, " batch"]]:
    """The maximum of each base score over the local patches, (B,), computed in chunks of images."""

    def best(chunk: Tensor) -> Tensor:
        z = logits_of(chunk)
        return torch.stack([base(z).amax(-1) for base in bases.values()], 1)

    values = by_chunks(best, (patches,), 4 * prompts * patches.shape[1])
    return dict(zip(bases, values.unbind(1), strict=True))
