"""The mask study: compare similarity maps with ground-truth masks or boxes; nothing is trained.

Follows the first experiments of CLIP-OS (arXiv:2404.00323): similarity maps of plain CLIP (S_clip), of the surgery
path (S) and their difference (Delta) for the true label, on the patch grid, with and without patch-context and feature
surgery.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..clip.surgery import SurgeryOptions
from ..evaluation.metrics import boundary_f, mask_iou
from ..method.mask import MAP_PATHS, MaskOptions, class_weights, min_max, similarity_map, surgery_map
from ..types import ImageFeatures, Labels, PatchMap, Texts

Setting = tuple[SurgeryOptions, MaskOptions]  # what S depends on

MAP_KINDS = ("clip", "s", "delta")
THRESHOLDS = {"clip": 0.5, "s": 0.5, "delta": 0.0}
MASK_METRICS = ("iou", "boundary_f", "pointing", "patch_accuracy")


@dataclass
class MapMetrics:
    """Metrics of one kind of map, one entry per image.

    Attributes:
        iou: intersection over union of mask and object.
        boundary_f: F-measure of the boundaries.
        pointing: 1 if the highest patch is inside the object, else 0.
        patches: number of correctly classified patches inside the object, and of all patches inside it.
    """

    iou: list[float] = field(default_factory=list)
    boundary_f: list[float] = field(default_factory=list)
    pointing: list[float] = field(default_factory=list)
    patches: list[tuple[int, int]] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """IoU, boundary F and pointing game as means over images, patch accuracy over all patches, 0-1.

        Empty if there were no images.
        """
        if not self.patches:
            return {}
        correct, total = np.sum(self.patches, axis=0)
        means = [float(np.mean(values)) for values in (self.iou, self.boundary_f, self.pointing)]
        return dict(zip(MASK_METRICS, [*means, float(correct / total)], strict=True))


def label_maps(features: ImageFeatures, text: Texts, labels: Labels, options: MaskOptions) -> dict[str, PatchMap]:
    """S_clip, S and Delta for each image's label; arguments as for :func:`~.mask.discrepancy`."""
    clip, s = similarity_map(features.path("clip"), text[labels]), surgery_map(features, text, labels, options)
    return {"clip": clip, "s": s, "delta": s - clip}


def patch_classes(
    features: ImageFeatures, text: Texts, options: MaskOptions
) -> dict[str, Int[Tensor, "batch patches"]]:
    """The class of each patch by each map, (B, P): the class with the largest similarity, or the largest Delta."""
    clip, s = (features.path(name) @ text.T for name in ("clip", "vv"))  # (B, P, C)
    if options.feature_surgery:
        s = s * class_weights(features.cls, text)[:, None]
        s = s - s.mean(-1, keepdim=True)
    batch = len(s)
    maps = [min_max(rearrange(x, "b p c -> (b c) p")) for x in (s, clip)]  # S and S_clip of every class
    delta = rearrange(maps[0] - maps[1], "(b c) p -> b p c", b=batch)
    return {"clip": clip.argmax(-1), "s": s.argmax(-1), "delta": delta.argmax(-1)}


def add_batch(
    metrics: dict[str, MapMetrics],
    features: ImageFeatures,
    text: Texts,
    labels: Labels,
    truth: Bool[Tensor, "batch rows columns"],
    options: MaskOptions,
) -> None:
    """Add the metrics of a batch.

    Args:
        metrics: metrics by kind of map.
        features: image features with the paths ``clip`` and ``vv``.
        text: the frozen class prompts, (C, D).
        labels: true classes, (B,).
        truth: patches at least half covered by the object, (B, g, g) bool; images without such patches are skipped.
        options: whether S is with feature surgery.
    """
    grid, flat = truth.shape[1:], truth.flatten(1)
    maps, classes = label_maps(features, text, labels, options), patch_classes(features, text, options)
    for name, found in metrics.items():
        mask = (maps[name] > THRESHOLDS[name]).reshape(-1, *grid).cpu().numpy()
        best = maps[name].argmax(1)
        correct = (classes[name] == labels[:, None]) & flat
        for i in range(len(truth)):
            if flat[i].any():
                found.iou.append(mask_iou(mask[i], truth[i].cpu().numpy()))
                found.boundary_f.append(boundary_f(mask[i], truth[i].cpu().numpy()))
                found.pointing.append(float(flat[i, best[i]]))
                found.patches.append((int(correct[i].sum()), int(flat[i].sum())))


def covered_patches(
    mask: Float[Tensor, "batch height width"], grid: tuple[int, int]
) -> Bool[Tensor, "batch rows columns"]:
    """Patches at least half covered by the object."""
    return F.adaptive_avg_pool2d(mask[:, None].float(), grid)[:, 0] >= 0.5


@torch.inference_mode()
def evaluate_maps(
    backbone: FrozenClip, text: Texts, settings: Sequence[Setting], batches: Any
) -> list[dict[str, dict[str, float]]]:
    """Metrics of every kind of map for each setting, from one pass over the images.

    Args:
        backbone: the frozen CLIP.
        text: the frozen class prompts, (C, D).
        settings: options of the surgery path and of S.
        batches: batches with ``image``, ``label`` and ``mask``.
    """
    metrics = [{name: MapMetrics() for name in MAP_KINDS} for _ in settings]
    surgeries = [surgery for surgery, _ in settings]
    for batch in batches:
        features = backbone.encode_surgeries(batch["image"].to(backbone.device), MAP_PATHS, surgeries)
        truth, labels = covered_patches(batch["mask"], backbone.grid), batch["label"].to(backbone.device)
        for by_map, (surgery, options) in zip(metrics, settings, strict=True):
            add_batch(by_map, features[surgery], text, labels, truth.to(backbone.device), options)
    return [{name: found.summary() for name, found in by_map.items()} for by_map in metrics]
