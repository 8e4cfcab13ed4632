"""Which patches belong to the class: similarity maps and the discrepancy mask. Pure functions.

Source: CLIP-OS, Sun et al. 2024, arXiv:2404.00323. Where the paper leaves a constant open it is an option here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..types import Features, ImageFeatures, Labels, Patches, PatchMap, PatchMask, PathName, Texts
from ..utils.chunks import by_chunks


@dataclass(frozen=True)
class MaskOptions:
    """Which patches count as ID-relevant.

    Attributes:
        kind: discrepancy (S - S_clip, the paper's), top_k (LoCoOp's way: the label is among the patch's top classes),
            surgery (S alone), clip (plain CLIP's S_clip alone), none (every patch).
        threshold: a patch is ID-relevant above it; null: 0 for the discrepancy, 0.5 for one map alone.
        top_k: K of kind top_k and of LoCoOp's loss, as a fraction of the classes (LoCoOp: 200 of 1,000).
    """

    kind: Literal["discrepancy", "top_k", "surgery", "clip", "none"] = "discrepancy"
    threshold: float | None = None
    top_k: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.top_k <= 1:
            raise InputError(f"--model.mask.top_k is {self.top_k}: a fraction of the classes, above 0 and at most 1")
        if self.threshold is not None and self.kind in ("top_k", "none"):
            raise InputError(f"--model.mask.threshold has no meaning for kind {self.kind}: leave it out")

    @property
    def paths(self) -> frozenset[PathName]:
        """The backbone's paths that this mask looks at."""
        by_kind: dict[str, set[PathName]] = {"discrepancy": {"clip", "vv"}, "clip": {"clip"}, "none": set()}
        return frozenset(by_kind.get(self.kind, {"vv"}))


def min_max(scores: PatchMap) -> PatchMap:
    """Each image's map stretched to [0, 1]; a map whose range is below 1e-6 is constant and becomes 0."""
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    span = high - low
    flat = span < 1e-6
    return torch.where(flat, 0.0, (scores - low) / span.masked_fill(flat, 1.0))


def similarity_map(patches: Patches, text: Features) -> PatchMap:
    """S = norm(<patches, t>) for each image's own text feature t, min-max over the image's patches, in [0, 1]."""
    return min_max(torch.einsum("bpd,bd->bp", patches, text))


def discrepancy(features: ImageFeatures, text: Features) -> PatchMap:
    """Delta = S - S_clip in [-1, 1]: what the surgery path sees of the class beyond CLIP's own map (CLIP-OS)."""
    return similarity_map(features.path("vv"), text) - similarity_map(features.path("clip"), text)


def relevance_map(features: ImageFeatures, text: Texts, labels: Labels, options: MaskOptions) -> PatchMap:
    """What the mask is cut from: Delta, S, S_clip, or minus the label's rank among the classes at each patch."""
    own = text[labels]
    if options.kind == "discrepancy":
        return discrepancy(features, own)
    if options.kind == "top_k":
        return -label_rank(features.path("vv"), text, labels).to(text.dtype)
    return similarity_map(features.path("vv" if options.kind == "surgery" else "clip"), own)


def relevant_patches(features: ImageFeatures, text: Texts, labels: Labels, options: MaskOptions) -> PatchMask:
    """The ID-relevant patches of each image for its label; at least the best patch always is.

    Args:
        features: with the paths that ``options.paths`` names.
        text: the frozen class prompts, (C, D).
        labels: each image's class, (B,): the true one in training, the predicted one at test time.
        options: which map, which threshold.
    """
    if options.kind == "none":
        patches = features.patches if features.patches_vv is None else features.path("vv")
        assert patches is not None
        return torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
    relevance = relevance_map(features, text, labels, options)
    best = F.one_hot(relevance.argmax(1), relevance.shape[1]).bool()
    return (relevance > mask_threshold(options, len(text))) | best


def mask_threshold(options: MaskOptions, classes: int) -> float:
    """Above what the relevance map counts as ID-relevant: as given, or the kind's own."""
    default = {"discrepancy": 0.0, "top_k": -top_k_count(classes, options.top_k)}.get(options.kind, 0.5)
    return float(default if options.threshold is None else options.threshold)


def top_k_count(classes: int, fraction: float) -> int:
    """K = fraction of the classes, at least 1."""
    return max(1, round(fraction * classes))


@torch.no_grad()
def label_rank(patches: Patches, text: Texts, labels: Labels) -> Float[Tensor, "batch patches"]:
    """How many classes beat the label at each patch (0: the label is the best)."""

    def rank(patches: Patches, labels: Labels) -> Tensor:
        logits = patches @ text.T
        own = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
        return (logits > own).sum(2).to(logits.dtype)

    return by_chunks(rank, (patches, labels), 4 * len(text) * patches.shape[1])


def region_feature(patches: Patches, mask: PatchMask) -> Features:
    """The normalised sum of the chosen patches, (B, D)."""
    return F.normalize((patches * mask[..., None].to(patches.dtype)).sum(1), dim=-1)
