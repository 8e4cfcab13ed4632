"""Which test images the report shows: an example of each class, and the worst mistakes, with what the method saw."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.datamodule import ID, FewShotOOD
from ..data.image_sets import ModelSizeImages
from ..evaluation.thresholds import threshold_at_recall
from ..training.module import ClipOS
from .heatmaps import Example

MAX_PICTURES = 12  # pictures in a gallery
Indices = NDArray[np.intp]


def draw_pictures(module: ClipOS, data: FewShotOOD) -> dict[str, list[Example]]:
    """The galleries, mistakes at the threshold of 95 % ID recall and the most confident first.

    Returns:
        ``classes``: the first ID image of each class; ``rejected``: ID images below the threshold; ``confused``: ID
        images accepted as another class; ``outside``: OOD images with the highest scores (where a set was tested).
    """
    ours, labels = module.results[ID], labels_of(data)
    score, threshold = ours[module.score], threshold_at_recall(ours[module.score])
    confused = (ours["predicted"] != labels) & (score >= threshold)
    found = {
        "classes": examples(module, data, ID, np.unique(labels, return_index=True)[1][:10]),
        "rejected": examples(module, data, ID, extremes(score, score < threshold)),
        "confused": examples(module, data, ID, extremes(-score, confused)),
    }
    outside = [name for name in module.results if name != ID]
    if outside:
        found["outside"] = highest_outliers(module, data, outside)
    return found


def labels_of(data: FewShotOOD) -> NDArray[np.int64]:
    """True classes of the ID test images, in the order of the results' rows."""
    images, positions = data.test_sets[ID]
    assert images.labels is not None
    return images.labels[sorted(positions)]


def extremes(values: NDArray[np.float64], chosen: NDArray[np.bool_], most: int = MAX_PICTURES) -> Indices:
    """The ``chosen`` rows with the lowest values, in ascending order; at most so many.

    Example:
        >>> extremes(np.array([3.0, 1.0, 2.0]), np.array([True, False, True])).tolist()
        [2, 0]
    """
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(values[rows], kind="stable")][:most]


def highest_outliers(module: ClipOS, data: FewShotOOD, outside: Sequence[str]) -> list[Example]:
    """The OOD images with the highest scores, as many from each set (two at least), accepted or not."""
    each, found = max(2, MAX_PICTURES // len(outside)), []
    for name in outside[:MAX_PICTURES]:
        score = module.results[name][module.score]
        found += examples(module, data, name, np.argsort(-score, kind="stable")[:each])
    return sorted(found, key=lambda e: -e.score)


@torch.no_grad()
def examples(module: ClipOS, data: FewShotOOD, name: str, rows: Indices) -> list[Example]:
    """These rows of a test set as pictures, with the maps for the predicted class."""
    if not len(rows):
        return []
    images, positions = data.test_sets[name]
    chosen = [sorted(positions)[row] for row in rows]
    sized = ModelSizeImages(images, chosen, data.image_size)
    items = [sized[i] for i in range(len(chosen))]
    head = module.detector_head
    pixels = torch.stack([item["image"] for item in items]).to(module.device)
    features = module.backbone.encode_image(pixels, head.map_paths)
    best = head.probabilities(features).max(1)
    maps = head.maps(features, best.indices)
    table, grid, labels = module.results[name], module.backbone.grid, labels_of(data) if name == ID else None
    found = []
    for i, (item, row) in enumerate(zip(items, rows, strict=True)):
        s, clip, mask = (t[i].reshape(grid).cpu().numpy() for t in (maps.surgery, maps.clip, maps.mask))
        example = Example(
            image=item["image"].permute(1, 2, 0).numpy(),
            surgery=s,
            clip=clip,
            mask=mask,
            origin=name if labels is None else data.class_names[int(labels[row])],
            key=images.keys[chosen[i]],
            predicted=data.class_names[int(table["predicted"][row])],
            probability=float(best.values[i]),
            score=float(table[module.score][row]),
            truth=item["mask"].numpy() if "mask" in item else None,
        )
        found.append(example)
    return found
