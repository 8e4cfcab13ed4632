"""Test tables: a row per image, columns for predictions, scores, and similarity maps where ground-truth masks exist."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..method.mask import MAP_PATHS, similarity_map, surgery_map
from ..types import ImageFeatures, Labels, PathName
from .heads import Head, all_paths, score_all
from .metrics import OOD_METRICS, RowBuffer, ood_metrics

Columns = Mapping[str, NDArray[np.float64]]  # column name to one value per image
Results = Mapping[str, Columns]  # test set to its columns; the ID set is called "id"
MAP_COLUMNS = ("clip", "s", "truth")


class TestTables:
    """Predictions, scores and maps of every test set under several heads, filled batch by batch.

    Args:
        heads: the detectors; the maps use the class prompts and mask options of the first one.
        masked: test set to whether it has true object masks, in the order of the test loaders.
        grid: rows and columns of patches.
        device: of the scores.
    """

    __test__ = False  # not a pytest class

    def __init__(
        self, heads: Sequence[Head], masked: Mapping[str, bool], grid: tuple[int, int], device: torch.device
    ) -> None:
        self.heads, self.grid = list(heads), grid
        scores = [column for head in heads for column in head.columns]
        maps = [f"map/{kind}/{p}" for kind in MAP_COLUMNS for p in range(grid[0] * grid[1])]
        self.columns = {name: scores + (maps if has_masks else []) for name, has_masks in masked.items()}
        self.rows = {name: RowBuffer(len(columns)).to(device) for name, columns in self.columns.items()}
        for name, rows in self.rows.items():  # an empty first block, so that a process without images can gather, too
            rows.update(torch.empty(0), torch.empty(0, len(self.columns[name])))

    def paths(self, batch: Mapping[str, Tensor]) -> frozenset[PathName]:
        """The backbone's paths that the heads need for a batch."""
        return all_paths(self.heads) | (MAP_PATHS if "mask" in batch else frozenset())

    def update(self, set_index: int, features: ImageFeatures, batch: Mapping[str, Tensor]) -> None:
        """Score a batch of one set under every head.

        Args:
            set_index: position of the set among the test loaders.
            features: of the batch's images.
            batch: ``index`` of the images in their set, ``label`` for the ID set, true ``mask`` where there are some.
        """
        values = [score_all(self.heads, {self.heads[0].surgery: features})]
        if "mask" in batch:
            values.append(map_values(features, self.heads[0], batch["label"], batch["mask"], self.grid))
        list(self.rows.values())[set_index].update(batch["index"], torch.cat(values, 1))

    def gather(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Test set to column to values over all processes, rows in the order of the set."""
        return {n: dict(zip(self.columns[n], rows.compute().T, strict=True)) for n, rows in self.rows.items()}


def map_values(
    features: ImageFeatures,
    head: Head,
    labels: Labels,
    mask: Float[Tensor, "batch height width"],
    grid: tuple[int, int],
) -> Float[Tensor, "batch columns"]:
    """S_clip, S and the fraction of each patch that the object covers, concatenated, (B, 3 P).

    Args:
        features: with the paths ``clip`` and ``vv``.
        head: the detector, for its class prompts and mask options.
        labels: true classes, (B,).
        mask: true object masks in [0, 1], (B, H, W).
        grid: rows and columns of patches.
    """
    truth = F.adaptive_avg_pool2d(mask[:, None].float(), grid).flatten(1)
    clip = similarity_map(features.path("clip"), head.class_text[labels])
    s = surgery_map(features, head.class_text, labels, head.mask)
    return torch.cat([values.float() for values in (clip, s, truth)], 1)


def headline_metrics(results: Results, score: str) -> dict[str, float]:
    """``<set>/<metric>`` and ``average/<metric>`` of one score, in percent; averages are unweighted over sets.

    Args:
        results: test set to column to values; the ID test set is called ``id``.
        score: name of the score.

    Raises:
        InputError: a score is not finite.
    """
    id_scores = results["id"][score]
    sets = {
        name: ood_metrics(id_scores, columns[score], f"score {score} of {name}")
        for name, columns in results.items()
        if name != "id"
    }
    per_set = {f"{name}/{metric}": value for name, metrics in sets.items() for metric, value in metrics.items()}
    means = {f"average/{m}": sum(metrics[m] for metrics in sets.values()) / len(sets) for m in OOD_METRICS if sets}
    return per_set | means
