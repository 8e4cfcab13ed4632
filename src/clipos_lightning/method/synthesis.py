"""Outliers made on the fly: ID-relevant features of two classes mixed (CLIP-OS section 3, "outliers synthesis").

Every draw is a pure function of (seed, step) over the global batch, so that one process and several, a fresh run and a
resumed one, see the same training.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..errors import InputError
from ..types import Features, Images, Labels, OutlierSource, Patches, PatchMask, Texts
from .feature_store import ShotFeatures
from .mask import MaskOptions, region_feature, relevant_patches


@dataclass(frozen=True)
class SynthesisOptions:
    """How outliers are made.

    Attributes:
        level: region (mix the normalised sums of both images' patches) or patch (mix one patch of each, drawn).
        patches: which patches: the ID-relevant ones (the paper's), the ID-irrelevant ones, or all.
        path: whose patches: the surgery path's (vv) or CLIP's own (clip).
        alpha: lambda ~ Beta(alpha, alpha).
        mix: a fixed lambda in [0, 1] instead; 1 is no mixing.
        count: outliers per step; null: as many as images in the batch.
    """

    level: Literal["region", "patch"] = "region"
    patches: Literal["relevant", "irrelevant", "all"] = "relevant"
    path: Literal["vv", "clip"] = "vv"
    alpha: float = 1.0
    mix: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise InputError(f"--model.synthesis.alpha is {self.alpha}: it must be above 0")
        if self.mix is not None and not 0 <= self.mix <= 1:
            raise InputError(f"--model.synthesis.mix is {self.mix}: it must lie in [0, 1]")
        if self.count is not None and self.count < 1:
            raise InputError(f"--model.synthesis.count is {self.count}: at least 1")


@dataclass
class Draw:
    """The random choices of one step, over the global batch.

    Attributes:
        pairs: positions in the batch of the two images of each outlier, with different labels, (M, 2).
        mix: lambda of each outlier, (M,).
        patch: in [0, 1), which of each image's patches is taken at level ``patch``, (M, 2).
    """

    pairs: NDArray[np.int64]
    mix: NDArray[np.float64]
    patch: NDArray[np.float64]

    def shard(self, rank: int, world: int) -> "Draw":
        """One process's slice: every ``world``-th outlier from ``rank`` on."""
        return Draw(self.pairs[rank::world], self.mix[rank::world], self.patch[rank::world])


def draw_pairs(rng: np.random.Generator, labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Pairs (i, j) of positions with different labels, uniform over i, then over its partners; (M, 2).

    A batch with a single class has no pairs: (0, 2).
    """
    if len(np.unique(labels)) < 2:
        return np.empty((0, 2), dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    first = rng.integers(len(labels), size=count)
    start = np.searchsorted(ordered, labels[first], side="left")
    own = np.searchsorted(ordered, labels[first], side="right") - start
    other = rng.integers(len(labels) - own)  # among the images of other classes, skipping the block of its own
    second = order[np.where(other < start, other, other + own)]
    return np.stack([first, second], axis=1)


def draw_step(seed: int, step: int, labels: NDArray[np.int64], options: SynthesisOptions) -> Draw:
    """All choices of one training step: a pure function of (seed, step) and the global batch's labels."""
    rng = np.random.default_rng((seed, step))
    pairs = draw_pairs(rng, labels, len(labels) if options.count is None else options.count)
    mix = rng.beta(options.alpha, options.alpha, size=len(pairs))
    patch = rng.random((len(pairs), 2))
    return Draw(pairs, mix if options.mix is None else np.full(len(pairs), options.mix), patch)


def choose_patches(mask: PatchMask, which: Literal["relevant", "irrelevant", "all"]) -> PatchMask:
    """The patches that outliers are made from; where all patches are relevant, "irrelevant" keeps the last one."""
    if which == "relevant":
        return mask
    if which == "all":
        return torch.ones_like(mask)
    rest = ~mask
    rest[:, -1] |= mask.all(1)
    return rest


@torch.no_grad()
def shot_features(
    backbone: FrozenClip,
    images: Images,
    labels: Labels,
    class_text: Texts,
    outliers: OutlierSource,
    mask: MaskOptions,
    options: SynthesisOptions,
) -> ShotFeatures:
    """What training needs of few-shot images; regions and patches by the mask of their true label.

    Args:
        backbone: the frozen CLIP.
        images: uint8 at its size, (B, 3, H, W).
        labels: true classes, (B,).
        class_text: the frozen class prompts of the mask, (C, D).
        outliers: where the objective's outlier term runs.
        mask: which patches are ID-relevant.
        options: how outliers are made.
    """
    if outliers == "local_patches":
        features = backbone.encode_image(images, frozenset({"local"}))
        return ShotFeatures(features.cls, patches=features.patches_local)
    if outliers == "none":
        return ShotFeatures(backbone.encode_image(images).cls)
    features = backbone.encode_image(images, mask.paths | {options.path})
    with torch.autocast(images.device.type, enabled=False):  # fp32 whatever the encoder ran in
        chosen = choose_patches(relevant_patches(features, class_text, labels, mask), options.patches)
        patches = features.path(options.path)
        if options.level == "region":
            return ShotFeatures(features.cls, region=region_feature(patches, chosen))
    return ShotFeatures(features.cls, patches=patches, mask=chosen)


def pick_patch(patches: Patches, mask: PatchMask, where: Float[Tensor, " batch"]) -> Features:
    """One of the mask's patches of each image: the floor(where * n)-th of its n patches, (B, D)."""
    count = mask.sum(1)
    wanted = torch.minimum((where * count).long(), count - 1)  # fp32 may round up to 1
    nth = mask.long().cumsum(1) - 1
    index = (mask & (nth == wanted[:, None])).long().argmax(1)
    return patches[torch.arange(len(patches), device=patches.device), index]


def mix_features(a: Features, b: Features, mix: Float[Tensor, " batch"]) -> Features:
    """f = normalise(lambda a + (1 - lambda) b), CLIP-OS's synthesised outlier."""
    return F.normalize(mix[:, None] * a + (1 - mix[:, None]) * b, dim=-1)


def mix_shots(a: ShotFeatures, b: ShotFeatures, mix: Float[Tensor, " batch"], where: Tensor) -> Features:
    """Outliers (M, D) of M pairs of few-shot images: their regions mixed, or one patch of each.

    Args:
        a: the first image of each pair.
        b: the second.
        mix: lambda, (M,).
        where: in [0, 1), which patch of each is taken where the store holds patches, (M, 2).
    """
    if a.region is not None and b.region is not None:
        return mix_features(a.region, b.region, mix)
    assert a.patches is not None and a.mask is not None and b.patches is not None and b.mask is not None
    return mix_features(pick_patch(a.patches, a.mask, where[:, 0]), pick_patch(b.patches, b.mask, where[:, 1]), mix)


def as_tensors(draw: Draw, like: Tensor) -> tuple[Int[Tensor, "outliers 2"], Float[Tensor, " outliers"], Tensor]:
    """A draw's pairs, lambdas and patch choices on the device of ``like``."""
    return (
        torch.from_numpy(draw.pairs).to(like.device),
        torch.from_numpy(draw.mix).to(torch.float32).to(like.device),
        torch.from_numpy(draw.patch).to(torch.float32).to(like.device),
    )
