"""The mask study: how well maps find the object, against true masks or boxes; nothing is trained.

After CLIP-OS's first experiments (arXiv:2404.00323): maps of plain CLIP, of the surgery path (S) and their difference
(Delta), for the true label, on the patch grid; each with and without patch-context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..clip.surgery import SurgeryOptions
from ..evaluation.metrics import boundary_f, mask_iou
from ..method.mask import MAP_PATHS, min_max, similarity_map
from ..types import ImageFeatures, Labels, PatchMap, Texts

MAP_KINDS = ("clip", "s", "delta")
THRESHOLDS = {"clip": 0.5, "s": 0.5, "delta": 0.0}
MASK_METRICS = ("iou", "boundary_f", "pointing", "patch_accuracy")


@dataclass
class MaskFigures:
    """Figures of one map, an entry for each image (``patches``: right and all patches inside the object)."""

    iou: list[float] = field(default_factory=list)
    boundary_f: list[float] = field(default_factory=list)
    pointing: list[float] = field(default_factory=list)
    patches: list[tuple[int, int]] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """IoU, boundary F and pointing game: means over images, 0-1; patch accuracy: over all patches; none of none."""
        if not self.patches:
            return {}
        right, total = np.sum(self.patches, axis=0)
        means = [float(np.mean(values)) for values in (self.iou, self.boundary_f, self.pointing)]
        return dict(zip(MASK_METRICS, [*means, float(right / total)], strict=True))


def maps_of(features: ImageFeatures, own: Tensor) -> dict[str, PatchMap]:
    """S_clip, S and Delta for each image's own text feature."""
    clip, s = (similarity_map(features.path(name), own) for name in ("clip", "vv"))
    return {"clip": clip, "s": s, "delta": s - clip}


def patch_classes(features: ImageFeatures, text: Texts) -> dict[str, Tensor]:
    """The class of each patch by each map, (B, P): the most similar text; for Delta the largest Delta_c."""
    clip, s = (features.path(name) @ text.T for name in ("clip", "vv"))  # (B, P, C)
    batch = len(s)
    maps = [min_max(rearrange(x, "b p c -> (b c) p")) for x in (s, clip)]  # each class's own map
    delta = rearrange(maps[0] - maps[1], "(b c) p -> b p c", b=batch)
    return {"clip": clip.argmax(-1), "s": s.argmax(-1), "delta": delta.argmax(-1)}


def count(tally: dict[str, MaskFigures], features: ImageFeatures, text: Texts, labels: Labels, truth: Tensor) -> None:
    """Add a batch.

    Args:
        tally: map to its figures.
        features: with the paths ``clip`` and ``vv``.
        text: the frozen class prompts, (C, D).
        labels: true classes, (B,).
        truth: patches that the object covers by at least half, (B, g, g) bool; images without any are left out.
    """
    grid, flat = truth.shape[1:], truth.flatten(1)
    maps, classes = maps_of(features, text[labels]), patch_classes(features, text)
    for name, found in tally.items():
        mask = (maps[name] > THRESHOLDS[name]).reshape(-1, *grid).cpu().numpy()
        best = maps[name].argmax(1)
        right = (classes[name] == labels[:, None]) & flat
        for i in range(len(truth)):
            if flat[i].any():
                found.iou.append(mask_iou(mask[i], truth[i].cpu().numpy()))
                found.boundary_f.append(boundary_f(mask[i], truth[i].cpu().numpy()))
                found.pointing.append(float(flat[i, best[i]]))
                found.patches.append((int(right[i].sum()), int(flat[i].sum())))


def on_grid(mask: Float[Tensor, "batch height width"], grid: tuple[int, int]) -> Bool[Tensor, "batch rows columns"]:
    """Patches that the object covers by at least half."""
    return F.adaptive_avg_pool2d(mask[:, None].float(), grid)[:, 0] >= 0.5


@torch.inference_mode()
def study(
    backbone: FrozenClip, text: Texts, surgeries: Sequence[SurgeryOptions], batches: Any
) -> list[dict[str, dict[str, float]]]:
    """Figures of every map under each of the surgery options, from one pass over the images.

    Args:
        backbone: the frozen CLIP.
        text: the frozen class prompts, (C, D).
        surgeries: options of the surgery path.
        batches: of ``image``, ``label`` and ``mask``.
    """
    tallies = [{name: MaskFigures() for name in MAP_KINDS} for _ in surgeries]
    for batch in batches:
        features = backbone.encode_surgeries(batch["image"].to(backbone.device), MAP_PATHS, surgeries)
        truth, labels = on_grid(batch["mask"], backbone.grid), batch["label"].to(backbone.device)
        for tally, surgery in zip(tallies, surgeries, strict=True):
            count(tally, features[surgery], text, labels, truth.to(backbone.device))
    return [{name: found.figures() for name, found in tally.items()} for tally in tallies]
