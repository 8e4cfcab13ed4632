"""Which patches belong to the class: similarity maps and the CLIP-surgery-discrepancy mask. Pure functions.

Sources: CLIP-OS, Sun et al. 2024, arXiv:2404.00323, section 3, "CLIP-surgery-discrepancy masking"; CLIP surgery, Li et
al. 2023, arXiv:2304.05653 (feature surgery). Constants that the papers leave open are options. Shapes: B images,
P patches, C classes, D dimensions; all features are L2-normalised.
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

MAP_PATHS: frozenset[PathName] = frozenset({"clip", "vv"})  # what S and S_clip are computed from


@dataclass(frozen=True)
class MaskOptions:
    """Which patches count as ID-relevant.

    Attributes:
        kind: discrepancy (S - S_clip, the paper's), top_k (LoCoOp's: the label is among the patch's top K classes),
            surgery (S alone), clip (plain CLIP's S_clip alone) or none (every patch).
        threshold: patches with a value above it are ID-relevant; null: 0 for discrepancy, 0.5 for surgery and clip.
        top_k: K of kind top_k and of LoCoOp's and SCT's losses, as a fraction of the classes (LoCoOp: 200 of 1,000).
        feature_surgery: subtract from S what all classes have in common (CLIP surgery), for kinds discrepancy and
            surgery; needs at least two classes.

    Raises:
        InputError: top_k is outside (0, 1], or an option has no meaning for the kind: a threshold for top_k and none,
            feature_surgery for top_k, clip and none.

    Example:
        >>> from clipos_lightning import MaskOptions
        >>> sorted(MaskOptions().paths), sorted(MaskOptions(kind="clip").paths)
        (['clip', 'vv'], ['clip'])
    """

    kind: Literal["discrepancy", "top_k", "surgery", "clip", "none"] = "discrepancy"
    threshold: float | None = None
    top_k: float = 0.2
    feature_surgery: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.top_k <= 1:
            raise InputError(f"--model.mask.top_k is {self.top_k}: take a fraction of the classes in (0, 1]")
        if self.threshold is not None and self.kind in ("top_k", "none"):
            raise InputError(f"--model.mask.threshold has no meaning for kind {self.kind}: leave it out")
        if self.feature_surgery and self.kind not in ("discrepancy", "surgery"):
            raise InputError(f"--model.mask.feature_surgery has no meaning for kind {self.kind}: leave it out")

    @property
    def paths(self) -> frozenset[PathName]:
        """The backbone's paths whose patch features the mask needs."""
        by_kind: dict[str, set[PathName]] = {
            **{"discrepancy": {"clip", "vv"}, "clip": {"clip"}, "none": set()},
            **{"surgery": {"vv"}, "top_k": {"vv"}},
        }
        return frozenset(by_kind[self.kind])

    def check_classes(self, count: int) -> None:
        """Check that the mask works with this number of classes.

        Raises:
            InputError: feature surgery with a single class: S would be constant.
        """
        if self.feature_surgery and count < 2:
            raise InputError(
                "--model.mask.feature_surgery subtracts what all classes have in common, and there is one class: leave "
                "it out"
            )


def min_max(scores: PatchMap) -> PatchMap:
    """Scale each image's map to [0, 1]; a map whose range is below 1e-6 is constant and becomes 0. (B, P).

    Example:
        >>> min_max(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])).tolist()
        [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    """
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    span = high - low
    flat = span < 1e-6
    return torch.where(flat, 0.0, (scores - low) / span.masked_fill(flat, 1.0))


def similarity_map(patches: Patches, text: Features) -> PatchMap:
    """S = norm(<patches, t>): cosines to each image's text feature t, min-max normalised per image, in [0, 1].

    Args:
        patches: (B, P, D).
        text: one text feature per image, (B, D).

    Example:
        >>> similarity_map(torch.eye(3)[None], torch.tensor([[0.8, 0.6, 0.0]]))
        tensor([[1.0000, 0.7500, 0.0000]])
    """
    return min_max(torch.einsum("bpd,bd->bp", patches, text))


def class_weights(cls: Features, text: Texts) -> Float[Tensor, "batch prompts"]:
    """Feature surgery's weights of the classes for each image, w_c = C p_c with p = softmax(2 cos(f, t)), (B, C).

    Their mean is 1. They restrain the influence of obvious classes on the maps of the others (Li et al. 2023).

    Args:
        cls: global features f, (B, D).
        text: class features t, (C, D).

    Example:
        >>> class_weights(torch.tensor([[1.0, 0.0]]), torch.eye(2))  # 2 / (1 + e^-2), 2 / (1 + e^2)
        tensor([[1.7616, 0.2384]])
    """
    return len(text) * (2 * cls @ text.T).softmax(1)


def distinct_text(cls: Features, text: Texts, labels: Labels) -> Features:
    """The text feature of each image's label without what all classes have in common, (B, D); not normalised.

    It is u = w_y t_y - mean_c(w_c t_c), so that <f_p, u> is feature surgery's similarity (Li et al. 2023) of patch p to
    label y, w_y <f_p, t_y> - mean_c(w_c <f_p, t_c>), with the weights of :func:`class_weights`.

    Args:
        cls: global features, (B, D).
        text: class features, (C, D); with C = 1 the result is 0.
        labels: each image's class, (B,).

    Example:
        >>> distinct_text(torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([0]))
        tensor([[ 0.8808, -0.1192]])
    """
    weights = class_weights(cls, text)
    return weights.gather(1, labels[:, None]) * text[labels] - weights @ text / len(text)


def surgery_map(features: ImageFeatures, text: Texts, labels: Labels, options: MaskOptions) -> PatchMap:
    """S, the similarity map of the surgery path for each image's label, in [0, 1], (B, P).

    Args:
        features: with the path ``vv``.
        text: the frozen class prompts, (C, D).
        labels: each image's class, (B,).
        options: whether with feature surgery.

    Raises:
        InputError: feature surgery with a single class.
        ValueError: the path was not computed.

    Example:
        >>> features = ImageFeatures(cls=torch.eye(2)[:1], patches_vv=torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]))
        >>> surgery_map(features, torch.eye(2), torch.tensor([1]), MaskOptions())
        tensor([[0., 1.]])
    """
    options.check_classes(len(text))
    label_text = distinct_text(features.cls, text, labels) if options.feature_surgery else text[labels]
    return similarity_map(features.path("vv"), label_text)


def discrepancy(features: ImageFeatures, text: Texts, labels: Labels, options: MaskOptions) -> PatchMap:
    """Delta = S - S_clip in [-1, 1], (B, P): the surgery path's map minus plain CLIP's (CLIP-OS, section 3).

    Args:
        features: with the paths ``vv`` and ``clip``.
        text: the frozen class prompts, (C, D).
        labels: each image's class, (B,).
        options: whether S is with feature surgery.

    Raises:
        InputError: feature surgery with a single class.
        ValueError: a path was not computed.

    Example:
        >>> vv, clip = torch.eye(2)[None], torch.eye(2).flip(0)[None]  # the first patch is the object
        >>> features = ImageFeatures(cls=torch.eye(2)[:1], patches=clip, patches_vv=vv)
        >>> discrepancy(features, torch.eye(2), torch.tensor([0]), MaskOptions())
        tensor([[ 1., -1.]])
    """
    return surgery_map(features, text, labels, options) - similarity_map(features.path("clip"), text[labels])


def relevance_map(features: ImageFeatures, text: Texts, labels: Labels, options: MaskOptions) -> PatchMap:
    """The map that the mask thresholds, (B, P): Delta, S, S_clip, or minus the label's rank among the classes.

    Args:
        features: with the paths in ``options.paths``.
        text: the frozen class prompts, (C, D).
        labels: each image's class, (B,).
        options: which map; not kind none.

    Example:
        >>> vv, clip = torch.eye(2)[None], torch.eye(2).flip(0)[None]
        >>> features = ImageFeatures(cls=torch.eye(2)[:1], patches=clip, patches_vv=vv)
        >>> relevance_map(features, torch.eye(2), torch.tensor([0]), MaskOptions(kind="clip"))
        tensor([[0., 1.]])
    """
    if options.kind == "discrepancy":
        return discrepancy(features, text, labels, options)
    if options.kind == "top_k":
        return -label_rank(features.path("vv"), text, labels).to(text.dtype)
    if options.kind == "surgery":
        return surgery_map(features, text, labels, options)
    return similarity_map(features.path("clip"), text[labels])


def relevant_patches(features: ImageFeatures, text: Texts, labels: Labels, options: MaskOptions) -> PatchMask:
    """The ID-relevant patches of each image for its label, Delta > tau (CLIP-OS, section 3), bool (B, P).

    The number of ID-relevant patches adapts to the image; the best patch is always included.

    Args:
        features: with the paths in ``options.paths``.
        text: the frozen class prompts, (C, D).
        labels: each image's class, (B,): the true one in training, the predicted one at test time.
        options: which map and which threshold.

    Raises:
        ValueError: a path was not computed.

    Example:
        >>> vv, clip = torch.eye(2)[None], torch.eye(2).flip(0)[None]
        >>> features = ImageFeatures(cls=torch.eye(2)[:1], patches=clip, patches_vv=vv)
        >>> relevant_patches(features, torch.eye(2), torch.tensor([0]), MaskOptions())
        tensor([[ True, False]])
    """
    if options.kind == "none":  # only the number of patches counts, so either path will do
        patches = features.patches if features.patches_vv is None else features.path("vv")
        assert patches is not None
        return torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
    relevance = relevance_map(features, text, labels, options)
    best = F.one_hot(relevance.argmax(1), relevance.shape[1]).bool()
    return (relevance > mask_threshold(options, len(text))) | best


def mask_threshold(options: MaskOptions, classes: int) -> float:
    """The threshold tau on the relevance map: as given, else 0 (discrepancy), 0.5 (one map) or -K (top_k).

    Example:
        >>> mask_threshold(MaskOptions(), 10), mask_threshold(MaskOptions(kind="surgery"), 10)
        (0.0, 0.5)
    """
    default = {"discrepancy": 0.0, "surgery": 0.5, "clip": 0.5, "top_k": -top_k_count(classes, options.top_k)}
    return float(default[options.kind] if options.threshold is None else options.threshold)


def top_k_count(classes: int, fraction: float) -> int:
    """K = fraction of the classes, rounded, at least 1.

    Example:
        >>> top_k_count(1000, 0.2), top_k_count(3, 0.1)
        (200, 1)
    """
    return max(1, round(fraction * classes))


@torch.no_grad()
def label_rank(patches: Patches, text: Texts, labels: Labels) -> Float[Tensor, "batch patches"]:
    """Number of classes with a higher cosine than the label at each patch, (B, P); 0: the label is the best.

    Args:
        patches: (B, P, D).
        text: class features, (C, D).
        labels: each image's class, (B,).

    Example:
        >>> label_rank(torch.eye(3)[None], torch.eye(3), torch.tensor([0]))
        tensor([[0., 1., 1.]])
    """

    def rank(patches: Patches, labels: Labels) -> Tensor:
        logits = patches @ text.T
        of_label = logits.gather(2, labels[:, None, None].expand(-1, logits.shape[1], 1))
        return (logits > of_label).sum(2).to(logits.dtype)

    return by_chunks(rank, (patches, labels), 4 * len(text) * patches.shape[1])


def region_feature(patches: Patches, mask: PatchMask) -> Features:
    """r = normalise(sum of the chosen patches), (B, D): the image's region.

    Args:
        patches: (B, P, D).
        mask: the chosen patches, bool (B, P).

    Example:
        >>> patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
        >>> region_feature(patches, torch.tensor([[True, True, True]]))
        tensor([[1., 0.]])
    """
    return F.normalize((patches * mask[..., None].to(patches.dtype)).sum(1), dim=-1)
