"""Select the test images that a report shows: an example of each class and the worst mistakes, with their maps."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.datamodule import ID, FewShotOOD
from ..data.image_sets import ModelSizeImages
from ..evaluation.thresholds import threshold_at_recall
from ..training.module import ClipOS
from .heatmaps import Example

MAX_PICTURES = 12  # images in a gallery
Indices = NDArray[np.intp]


def draw_pictures(module: ClipOS, data: FewShotOOD) -> dict[str, list[Example]]:
    """The galleries of a report, after a test.

    Mistakes are those at the threshold of 95 % ID recall, the most confident first.

    Args:
        module: after the test.
        data: of the test.

    Returns:
        ``classes``: the first ID image of each class (of ten at most); ``rejected``: ID images below the threshold;
        ``confused``: ID images accepted as another class; ``outside``: OOD images with the highest scores, if an OOD
        set was tested.
    """
    id_columns, labels = module.results[ID], labels_of(data)
    score, threshold = id_columns[module.score], threshold_at_recall(id_columns[module.score])
    confused = (id_columns["predicted"] != labels) & (score >= threshold)
    galleries = {
        "classes": examples(module, data, ID, np.unique(labels, return_index=True)[1][:10]),
        "rejected": examples(module, data, ID, lowest(score, score < threshold)),
        "confused": examples(module, data, ID, lowest(-score, confused)),
    }
    ood_sets = [name for name in module.results if name != ID]
    if ood_sets:
        galleries["outside"] = highest_ood(module, data, ood_sets)
    return galleries


def labels_of(data: FewShotOOD) -> NDArray[np.int64]:
    """True classes of the tested ID images, in the order of the results' rows."""
    images, positions = data.test_sets[ID]
    assert images.labels is not None
    return images.labels[sorted(positions)]


def lowest(values: NDArray[np.float64], chosen: NDArray[np.bool_], most: int = MAX_PICTURES) -> Indices:
    """Rows with the lowest values among the ``chosen`` ones, in ascending order of value, at most ``most``.

    Example:
        >>> lowest(np.array([3.0, 1.0, 2.0]), np.array([True, False, True])).tolist()
        [2, 0]
    """
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(values[rows], kind="stable")][:most]


def highest_ood(module: ClipOS, data: FewShotOOD, ood_sets: Sequence[str]) -> list[Example]:
    """The OOD images with the highest scores, the same number from each set (at least two), accepted or not."""
    per_set, images = max(2, MAX_PICTURES // len(ood_sets)), []
    for name in ood_sets[:MAX_PICTURES]:
        score = module.results[name][module.score]
        images += examples(module, data, name, np.argsort(-score, kind="stable")[:per_set])
    return sorted(images, key=lambda e: -e.score)


@torch.no_grad()
def examples(module: ClipOS, data: FewShotOOD, name: str, rows: Indices) -> list[Example]:
    """Images of a test set with the detector's output and the maps for the predicted class.

    Args:
        module: after the test.
        data: of the test.
        name: of the test set.
        rows: of the set's results.
    """
    if not len(rows):
        return []
    images, positions = data.test_sets[name]
    chosen = [sorted(positions)[row] for row in rows]
    model_size = ModelSizeImages(images, chosen, data.preprocessing)
    items = [model_size[i] for i in range(len(chosen))]
    head = module.detector_head
    pixels = torch.stack([item["image"] for item in items]).to(module.device)
    features = module.backbone.encode_image(pixels, head.map_paths)
    best = head.probabilities(features).max(1)
    maps = head.maps(features, best.indices)
    table, grid, labels = module.results[name], module.backbone.grid, labels_of(data) if name == ID else None
    chosen_examples = []
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
        chosen_examples.append(example)
    return chosen_examples
