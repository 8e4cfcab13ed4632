"""Test tables: rows of images, columns of predictions, scores, and maps where there is a truth."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..method.mask import similarity_map
from ..types import Features, ImageFeatures, PathName
from .heads import Head
from .metrics import RowBuffer

Columns = Mapping[str, NDArray[np.float64]]  # column name to one value an image
Results = Mapping[str, Columns]  # test set to its columns; the ID set is called "id"
MAP_PATHS: frozenset[PathName] = frozenset({"clip", "vv"})
MAP_COLUMNS = ("clip", "s", "truth")


class TestTable:
    """One test set's rows while it is tested.

    Args:
        name: the set.
        columns: names of the columns.
    """

    def __init__(self, name: str, columns: list[str]) -> None:
        self.name, self.columns, self.rows = name, columns, RowBuffer(len(columns))
        self.rows.update(torch.empty(0), torch.empty(0, len(columns)))  # a process may have no image of a small set

    def gather(self) -> dict[str, NDArray[np.float64]]:
        """Column to values over all processes, rows in the order of the set."""
        return dict(zip(self.columns, self.rows.compute().T, strict=True))


def column_names(heads: Sequence[Head], grid: tuple[int, int], masked: bool) -> list[str]:
    """Predicted class and scores of each head, then the maps patch by patch where the set has true masks."""
    patches = range(grid[0] * grid[1] if masked else 0)
    names = [column for head in heads for column in head.columns]
    return names + [f"map/{kind}/{p}" for kind in MAP_COLUMNS for p in patches]


def map_values(
    features: ImageFeatures, own: Features, mask: Float[Tensor, "batch height width"], grid: tuple[int, int]
) -> Float[Tensor, "batch columns"]:
    """S_clip and S for the true label, and each patch's share of the object: what masks are judged by, (B, 3 P)."""
    truth = F.adaptive_avg_pool2d(mask[:, None].float(), grid).flatten(1)
    maps = (similarity_map(features.path("clip"), own), similarity_map(features.path("vv"), own), truth)
    return torch.cat([m.float() for m in maps], 1)
