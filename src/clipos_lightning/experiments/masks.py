"""The mask study: compare maps of the object's patches with ground-truth masks or boxes; nothing is trained.

Follows the first experiments of CLIP-OS (arXiv:2404.00323): similarity maps of plain CLIP (S_clip), of the surgery
path (S) and their difference (Delta) for the true label, on the patch grid, with and without patch-context and feature
surgery; beside them the masks of other methods (:mod:`.map_kinds`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..clip.surgery import SurgeryOptions
from ..evaluation.metrics import boundary_f, mask_iou
from ..method.mask import MaskOptions
from ..types import Labels
from .map_kinds import KIND_PATHS, MAP_KINDS, SURGERY_KINDS, FrozenText, LabelMap, frozen_maps, surgery_maps

Setting = tuple[SurgeryOptions, MaskOptions]  # what S depends on

MASK_METRICS = ("iou", "boundary_f", "pointing", "patch_accuracy")


@dataclass
class MapMetrics:
    """Metrics of one kind of map, one entry per image.

    Attributes:
        iou: intersection over union of mask and object.
        boundary_f: F-measure of the boundaries.
        pointing: 1 if the highest patch is inside the object, else 0.
        patches: number of correctly classified patches inside the object, and of all patches inside it; empty if the
            map gives patches no classes.
    """

    iou: list[float] = field(default_factory=list)
    boundary_f: list[float] = field(default_factory=list)
    pointing: list[float] = field(default_factory=list)
    patches: list[tuple[int, int]] = field(default_factory=list)

    def add(self, found: LabelMap, labels: Labels, truth: Bool[Tensor, "batch rows columns"]) -> None:
        """Add the metrics of a batch.

        Args:
            found: the maps.
            labels: true classes, (B,).
            truth: patches at least half covered by the object, (B, g, g); images without such patches are skipped.
        """
        inside, masks = truth.cpu().numpy(), found.mask.reshape(truth.shape).cpu().numpy()
        hits = truth.flatten(1).gather(1, found.values.argmax(1, keepdim=True))[:, 0].tolist()
        for i in np.flatnonzero(inside.any((1, 2))):
            self.iou.append(mask_iou(masks[i], inside[i]))
            self.boundary_f.append(boundary_f(masks[i], inside[i]))
            self.pointing.append(float(hits[i]))
            if found.classes is not None:
                own = found.classes[i][truth[i].flatten()] == labels[i]
                self.patches.append((int(own.sum()), len(own)))

    def summary(self) -> dict[str, float]:
        """IoU, boundary F and pointing game as means over images, patch accuracy over all patches, 0-1.

        Without patch accuracy if the map gives patches no classes; empty if there were no images.
        """
        if not self.iou:
            return {}
        means = [float(np.mean(values)) for values in (self.iou, self.boundary_f, self.pointing)]
        correct, total = np.sum(self.patches, axis=0) if self.patches else (0, 0)
        return dict(zip(MASK_METRICS, [*means, *([float(correct / total)] if total else [])], strict=False))


def covered_patches(
    mask: Float[Tensor, "batch height width"], grid: tuple[int, int]
) -> Bool[Tensor, "batch rows columns"]:
    """Patches at least half covered by the object."""
    return F.adaptive_avg_pool2d(mask[:, None].float(), grid)[:, 0] >= 0.5


def batch_maps(
    backbone: FrozenClip, text: FrozenText, settings: Sequence[Setting], batch: Any
) -> list[dict[str, LabelMap]]:
    """Every kind of map of a batch for each setting, from one forward pass.

    Args:
        backbone: the frozen CLIP.
        text: the frozen prompts.
        settings: options of the surgery path and of S; the first one's ``top_k`` is LoCoOp's.
        batch: with ``image`` and ``label``.
    """
    images, labels = batch["image"].to(backbone.device), batch["label"].to(backbone.device)
    features = backbone.encode_surgeries(images, KIND_PATHS, [surgery for surgery, _ in settings])
    fixed = frozen_maps(features[settings[0][0]], text, labels, settings[0][1].top_k)
    return [fixed | surgery_maps(features[s], text.classes, labels, options) for s, options in settings]


@torch.inference_mode()
def evaluate_maps(
    backbone: FrozenClip, text: FrozenText, settings: Sequence[Setting], batches: Any
) -> list[dict[str, dict[str, float]]]:
    """Metrics of every kind of map for each setting, from one pass over the images.

    Args:
        backbone: the frozen CLIP.
        text: the frozen prompts.
        settings: as for :func:`batch_maps`.
        batches: batches with ``image``, ``label`` and ``mask``.
    """
    kinds = [MAP_KINDS, *[SURGERY_KINDS] * (len(settings) - 1)]  # no setting affects the others
    metrics = [{name: MapMetrics() for name in names} for names in kinds]
    for batch in batches:
        truth = covered_patches(batch["mask"], backbone.grid)
        for by_kind, maps in zip(metrics, batch_maps(backbone, text, settings, batch), strict=True):
            for name, found in by_kind.items():
                found.add(maps[name], batch["label"].to(backbone.device), truth.to(backbone.device))
    summaries = [{name: found.summary() for name, found in by_kind.items()} for by_kind in metrics]
    return [summaries[0] | summary for summary in summaries]
