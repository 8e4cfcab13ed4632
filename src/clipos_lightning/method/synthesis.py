"""Outlier synthesis on the fly: ID-relevant features of two classes are mixed.

Source: CLIP-OS, Sun et al. 2024, arXiv:2404.00323, section 3, "outliers synthesis". Every draw is a pure function of
(seed, step) over the global batch, so one process and several, a fresh and a resumed run train on the same outliers.
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
from .mask import MaskOptions, min_max, region_feature, relevant_patches


@dataclass(frozen=True)
class SynthesisOptions:
    """How outliers are made.

    Attributes:
        level: region (mix the normalised sums of both images' patches) or patch (mix one random patch of each).
        patches: which patches: relevant (the ID-relevant ones, the paper's), irrelevant (the others) or all.
        path: whose patch features: vv (the surgery path's) or clip (plain CLIP's).
        alpha: lambda ~ Beta(alpha, alpha), above 0; 1: uniform.
        mix: a fixed lambda in [0, 1] instead of a random one; 0 and 1: no mixing; null: random.
        count: outliers per step, over all processes; null: as many as images in the batch.

    Raises:
        InputError: alpha, mix or count is out of range.

    Example:
        >>> from clipos_lightning import SynthesisOptions
        >>> SynthesisOptions(level="patch", mix=0.5).path
        'vv'
    """

    level: Literal["region", "patch"] = "region"
    patches: Literal["relevant", "irrelevant", "all"] = "relevant"
    path: Literal["vv", "clip"] = "vv"
    alpha: float = 1.0
    mix: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise InputError(f"--model.synthesis.alpha is {self.alpha}: take a number above 0")
        if self.mix is not None and not 0 <= self.mix <= 1:
            raise InputError(f"--model.synthesis.mix is {self.mix}: take a number in [0, 1]")
        if self.count is not None and self.count < 1:
            raise InputError(f"--model.synthesis.count is {self.count}: take at least 1")


@dataclass
class Draw:
    """The random choices of one training step, over the global batch, for M outliers.

    Attributes:
        pairs: positions in the batch of the two images of each outlier, with different labels, (M, 2).
        mix: lambda of each outlier, in [0, 1], (M,).
        patch: u in [0, 1) of each image of a pair, (M, 2); level ``patch`` mixes its floor(u n)-th of n patches.
    """

    pairs: NDArray[np.int64]
    mix: NDArray[np.float64]
    patch: NDArray[np.float64]

    def shard(self, rank: int, world: int) -> "Draw":
        """One process's part: every ``world``-th outlier from ``rank`` on.

        Example:
            >>> Draw(np.array([[0, 1], [1, 0], [2, 1]]), np.full(3, 0.5), np.zeros((3, 2))).shard(0, 2).pairs.tolist()
            [[0, 1], [2, 1]]
        """
        return Draw(self.pairs[rank::world], self.mix[rank::world], self.patch[rank::world])

    def split(self, count: int) -> "list[Draw]":
        """Parts of ``count`` outliers, in order."""
        starts = range(0, max(len(self.pairs), 1), count)
        parts = [slice(i, i + count) for i in starts]
        return [Draw(self.pairs[part], self.mix[part], self.patch[part]) for part in parts]


def draw_pairs(rng: np.random.Generator, labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Pairs (i, j) of positions with different labels, uniform over i, then over its partners, (M, 2).

    Args:
        rng: source of randomness.
        labels: the batch's labels, (B,).
        count: M; a batch with a single class has no pairs, and the result is (0, 2).

    Example:
        >>> labels = np.array([0, 0, 1])
        >>> pairs = draw_pairs(np.random.default_rng(0), labels, 5)
        >>> pairs.shape, bool((labels[pairs[:, 0]] != labels[pairs[:, 1]]).all())
        ((5, 2), True)
    """
    if len(np.unique(labels)) < 2:
        return np.empty((0, 2), dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    first = rng.integers(len(labels), size=count)
    start = np.searchsorted(ordered, labels[first], side="left")
    same = np.searchsorted(ordered, labels[first], side="right") - start  # images of i's class
    other = rng.integers(len(labels) - same)  # rank among the images of other classes
    second = order[np.where(other < start, other, other + same)]
    return np.stack([first, second], axis=1)


def draw_step(seed: int, step: int, labels: NDArray[np.int64], options: SynthesisOptions) -> Draw:
    """All random choices of one training step: a pure function of (seed, step) and the global batch's labels.

    Args:
        seed: of the run.
        step: training step.
        labels: the global batch's labels, (B,).
        options: count, alpha and mix.

    Example:
        >>> first, again = (draw_step(1, 7, np.array([0, 0, 1]), SynthesisOptions()) for _ in range(2))
        >>> first.pairs.tolist() == again.pairs.tolist(), first.mix.shape
        (True, (3,))
    """
    rng = np.random.default_rng((seed, step))
    pairs = draw_pairs(rng, labels, len(labels) if options.count is None else options.count)
    mix = rng.beta(options.alpha, options.alpha, size=len(pairs))
    patch = rng.random((len(pairs), 2))
    return Draw(pairs, mix if options.mix is None else np.full(len(pairs), options.mix), patch)


def choose_patches(mask: PatchMask, which: Literal["relevant", "irrelevant", "all"]) -> PatchMask:
    """The patches that outliers are made from, bool (B, P); at least one per image.

    If every patch is relevant, ``irrelevant`` keeps the last one.

    Args:
        mask: the ID-relevant patches, at least one per image, bool (B, P).
        which: ``relevant``, ``irrelevant`` or ``all``.

    Example:
        >>> choose_patches(torch.tensor([[True, False], [True, True]]), "irrelevant").tolist()
        [[False, True], [False, True]]
    """
    if which == "relevant":
        return mask
    if which == "all":
        return torch.ones_like(mask)
    irrelevant = ~mask
    irrelevant[:, -1] |= mask.all(1)
    return irrelevant


@torch.no_grad()
def shot_features(
    backbone: FrozenClip,
    images: Images,
    labels: Labels,
    class_text: Texts,
    outliers: OutlierSource,
    mask: MaskOptions,
    options: SynthesisOptions,
    attention: bool = False,
) -> ShotFeatures:
    """Frozen features of few-shot images for an objective; regions and patches by the mask of the true label.

    Args:
        backbone: the frozen CLIP.
        images: uint8 at its size, (B, 3, H, W).
        labels: true classes, (B,).
        class_text: the frozen class prompts of the mask, (C, D).
        outliers: input of the objective's outlier term.
        mask: which patches are ID-relevant.
        options: how outliers are made.
        attention: with ``local_patches``, also how much each patch attends to the class token.

    Example:
        >>> from clipos_lightning import load_backbone
        >>> backbone, images = load_backbone(), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        >>> text, label = backbone.encode_text(["a photo of a cat."]), torch.tensor([0])
        >>> shot_features(backbone, images, label, text, "synthesis", MaskOptions(), SynthesisOptions()).region.shape
        torch.Size([1, 128])
    """
    if outliers == "local_patches":
        features = backbone.encode_image(images, frozenset({"local", "attention"} if attention else {"local"}))
        seen = None if features.attention is None else min_max(features.attention)
        return ShotFeatures(features.cls, patches=features.patches_local, attention=seen)
    if outliers == "none":
        return ShotFeatures(backbone.encode_image(images).cls)
    features = backbone.encode_image(images, mask.paths | {options.path})
    with torch.autocast(images.device.type, enabled=False):  # in fp32, whatever the encoder's precision
        chosen = choose_patches(relevant_patches(features, class_text, labels, mask), options.patches)
        patches = features.path(options.path)
        if options.level == "region":
            return ShotFeatures(features.cls, region=region_feature(patches, chosen))
    return ShotFeatures(features.cls, patches=patches, mask=chosen)


def pick_patch(patches: Patches, mask: PatchMask, where: Float[Tensor, " batch"]) -> Features:
    """One of the n chosen patches of each image, the floor(u n)-th, (B, D).

    Args:
        patches: (B, P, D).
        mask: the chosen patches, at least one per image, bool (B, P).
        where: u in [0, 1) of each image, (B,).

    Example:
        >>> pick_patch(torch.eye(3)[None], torch.tensor([[True, False, True]]), torch.tensor([0.5]))
        tensor([[0., 0., 1.]])
    """
    count = mask.sum(1)
    chosen = torch.minimum((where * count).long(), count - 1)  # where may round up to 1 in fp32
    nth = mask.long().cumsum(1) - 1
    index = (mask & (nth == chosen[:, None])).long().argmax(1)
    return patches[torch.arange(len(patches), device=patches.device), index]


def mix_features(a: Features, b: Features, mix: Float[Tensor, " batch"]) -> Features:
    """The synthesised outlier f = normalise(lambda a + (1 - lambda) b), (B, D) (CLIP-OS, section 3).

    Args:
        a: normalised features of the first images, (B, D).
        b: normalised features of the second images, (B, D).
        mix: lambda, (B,).

    Example:
        >>> mix_features(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]))
        tensor([[0.7071, 0.7071]])
    """
    return F.normalize(mix[:, None] * a + (1 - mix[:, None]) * b, dim=-1)


def mix_shots(
    a: ShotFeatures, b: ShotFeatures, mix: Float[Tensor, " batch"], where: Float[Tensor, "batch 2"]
) -> Features:
    """Outliers of M pairs of few-shot images, (M, D): their regions mixed, or one patch of each.

    Args:
        a: the first image of each pair.
        b: the second image.
        mix: lambda, (M,).
        where: u in [0, 1) of each image, which selects its patch if the features hold patches, (M, 2).

    Example:
        >>> a, b = (ShotFeatures(cls=row, region=row) for row in torch.eye(2)[:, None])
        >>> mix_shots(a, b, torch.tensor([0.5]), torch.zeros(1, 2))
        tensor([[0.7071, 0.7071]])
    """
    if a.region is not None and b.region is not None:
        return mix_features(a.region, b.region, mix)
    assert a.patches is not None and a.mask is not None and b.patches is not None and b.mask is not None
    return mix_features(pick_patch(a.patches, a.mask, where[:, 0]), pick_patch(b.patches, b.mask, where[:, 1]), mix)


def as_tensors(
    draw: Draw, like: Tensor
) -> tuple[Int[Tensor, "outliers 2"], Float[Tensor, " outliers"], Float[Tensor, "outliers 2"]]:
    """A draw's pairs, lambdas and patch choices as tensors on the device of ``like``.

    Example:
        >>> draw = draw_step(1, 0, np.array([0, 1]), SynthesisOptions(mix=0.5))
        >>> pairs, mix, where = as_tensors(draw, torch.zeros(1))
        >>> pairs.shape, mix
        (torch.Size([2, 2]), tensor([0.5000, 0.5000]))
    """
    return (
        torch.from_numpy(draw.pairs).to(like.device),
        torch.from_numpy(draw.mix).to(torch.float32).to(like.device),
        torch.from_numpy(draw.patch).to(torch.float32).to(like.device),
    )
