"""The named scores: which base score on which features of an image; higher = more in-distribution, in fp32.

A base score (see :mod:`~.method.base_scores`) is a function of one feature's cosines to the prompts. ``SCORES`` defines
on which features each named score evaluates it: the global feature alone, with the best local patch (GL-MCM, Miyai et
al. 2023, arXiv:2304.04521), or with the region of ID-relevant patches (ours, by the mask of CLIP-OS, arXiv:2404.00323).
Scores that belong to one method are in its file in :mod:`~.method.family`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..method.base_scores import (
    Score,
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
    unknown,
)
from ..method.family import family_scores
from ..method.logits import NO_EXTRA, ExtraTexts, Logits, prompt_logits
from ..method.mask import MaskOptions, region_feature, relevant_patches
from ..method.reference import Reference
from ..types import ClassTexts, ImageFeatures, Patches, PathName, Texts
from ..utils.chunks import by_chunks
from ..utils.imports import describe_failure, load_object


@dataclass(frozen=True)
class ScoreOptions:
    """Constants of the scores.

    Attributes:
        temperature: T, above 0, divides the cosines in the mcm scores and in the methods' own; 1: as MCM's authors.
        local_weight: weight of the local part in the gl_mcm scores and in the methods' own local scores.
        region_weight: weight of the region's score in the region scores.
        neighbors: k of the knn scores, at least 1.
        shrinkage: of the covariance in the mahalanobis scores towards a multiple of the identity, in (0, 1].
        group_size: number of negative words in each group of neg_label and csp, at least 1.

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
    "csp": Score(neg_label, negatives=True),
    "knn": Score(knn, memory=True),
    "mahalanobis": Score(mahalanobis, memory=True),
    "knn_region": Score(knn, on="region", memory=True),
    "mahalanobis_region": Score(mahalanobis, on="region", memory=True),
}


def known_scores() -> dict[str, Score]:
    """All scores that have a name: ``SCORES``, then those of methods."""
    return SCORES | family_scores()


@cache
def find_score(name: str) -> Score:
    """Find a score by its name in ``SCORES`` or of a method, or a user-defined one by its dotted path.

    A user-defined one is a ``Score`` or a function.

    Raises:
        InputError: no such module or name, neither a Score nor a function, or it fails on a small example.

    Example:
        >>> find_score("gl_mcm").on, find_score("energy_unknown").unknown
        ('local', True)
    """
    if "." not in name:
        if name not in known_scores():
            raise InputError(f"--model.scores {name!r} is not a score: take one of {', '.join(known_scores())}")
        return known_scores()[name]
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
        if score.further:
            example.further = torch.linspace(-0.2, 0.4, 6).view(2, 3).expand(*items, 2, 3)
        try:
            values = score.base(example)
            if score.pool is not None and len(items) == 2:
                values, items = score.pool(example), items[:1]
        except (Exception, SystemExit) as error:  # a user's function may raise anything, or end the program
            raise InputError(f"--model.scores {name} fails on a small example: {describe_failure(error)}") from error
        if not isinstance(values, Tensor) or values.shape != items:
            got = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"--model.scores {name} gives {got} for items of shape {items}: expected one score per item"
            )


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
    extra: ExtraTexts = NO_EXTRA,
) -> tuple[dict[str, Float[Tensor, " batch"]], Float[Tensor, "batch classes"]]:
    """Scores of a batch under one detector.

    ``local`` scores add local_weight times their pool over the local patches, by default the maximum; ``region`` scores
    add region_weight times the score of r = normalise(sum of the surgery path's ID-relevant patches for the predicted
    class).

    Args:
        names: of ``SCORES``, or dotted paths.
        features: with the paths of :func:`needed_paths`.
        text: the detector's prompts, (C, D) or (C + 1, D) with "unknown" last.
        class_text: the frozen class prompts of the mask, (C, D).
        scale: s.
        mask: which patches are ID-relevant.
        options: constants of the scores.
        memory: ID images to compare global features with, and regions; needed by scores with ``memory``.
        extra: further texts; needed by scores with ``negatives`` or ``further``.

    Returns:
        name to score (B,), and the global feature's cosines (B, C), whose argmax is the predicted class.

    Example:
        >>> text, vv, clip = torch.eye(2), torch.eye(2)[None], torch.eye(2).flip(0)[None]
        >>> features = ImageFeatures(cls=text[:1], patches=clip, patches_vv=vv, patches_local=vv)
        >>> names = ["mcm", "gl_mcm", "mcm_region"]
        >>> compute_scores(names, features, text, text, 10.0, MaskOptions(), ScoreOptions())[0]  # 1 / (1 + e^-1)
        {'mcm': tensor([0.7311]), 'gl_mcm': tensor([1.4621]), 'mcm_region': tensor([1.4621])}
    """
    images, regions = memory or (None, None)
    chosen = {name: find_score(name) for name in names}
    constants = (text, len(class_text), scale, options.temperature)

    def logits_of(feature: Tensor, by: Iterable[Score], reference: Reference | None, local: bool = False) -> Logits:
        known = list(by)
        needed = extra.only(any(s.further for s in known), any(s.negatives for s in known))
        return prompt_logits(feature, *constants, reference, needed, options.group_size, local)

    cls = logits_of(features.cls, chosen.values(), images)
    pooled = {name: score for name, score in chosen.items() if score.on == "local"}
    of_patches = partial(logits_of, by=pooled.values(), reference=images, local=True)
    local = pool_patches(pooled, features.path("local"), of_patches, len(text) + extra.rows) if pooled else {}
    by_region = [score for score in chosen.values() if score.on == "region"]
    region = None
    if by_region:
        patches = features.path("vv")
        relevant = relevant_patches(features, class_text, cls.cosine.argmax(-1), mask)
        region = logits_of(region_feature(patches, relevant), by_region, regions)
    scores = {}
    for name, score in chosen.items():
        scores[name] = score.base(cls)
        if score.on == "local":
            scores[name] = scores[name] + options.local_weight * local[name]
        if score.on == "region" and region is not None:
            scores[name] = scores[name] + options.region_weight * score.base(region)
    return scores, cls.cosine


def pool_patches(
    scores: dict[str, Score], patches: Patches, logits_of: Callable[[Tensor], Logits], texts: int
) -> dict[str, Float[Tensor, " batch"]]:
    """The local part of each score, (B,), from the local patches, computed in chunks of images.

    Args:
        scores: name to local score.
        patches: local features, (B, P, D).
        logits_of: the logits of such features.
        texts: number of texts that a patch is compared with.
    """

    def pool(chunk: Tensor) -> Tensor:
        z = logits_of(chunk)
        return torch.stack([score.pooled(z) for score in scores.values()], 1)

    values = by_chunks(pool, (patches,), 4 * texts * patches.shape[1])
    return dict(zip(scores, values.unbind(1), strict=True))
