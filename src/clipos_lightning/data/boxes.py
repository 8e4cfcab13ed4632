"""True boxes of a folder's images: ``boxes.csv`` beside the class folders, with lines ``path,x0,y0,x1,y1`` (pixels)."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .image_sets import FolderSet, LabelledPicture

Box = tuple[float, float, float, float]
BOX_COLUMNS = ["path", "x0", "y0", "x1", "y1"]


class BoxedSet(FolderSet):
    """A folder whose images have true boxes, which serve as object masks; an image without one has an empty mask.

    Args:
        plain: the folder.
        boxes: key to its boxes (x0, y0, x1, y1), in pixels, the ends outside.
    """

    def __init__(self, plain: FolderSet, boxes: Mapping[str, Sequence[Box]]) -> None:
        super().__init__(plain.name, plain.root, plain.keys, plain.labels)
        self.boxes, self.has_masks = boxes, True

    def read(self, position: int) -> LabelledPicture:
        """The image, and its boxes filled."""
        image = super().read(position).image
        return LabelledPicture(image, fill(self.boxes.get(self.keys[position], ()), image.width, image.height))


def fill(boxes: Sequence[Box], width: int, height: int) -> NDArray[np.float32]:
    """1 inside the boxes, 0 outside, (height, width)."""
    mask = np.zeros((height, width), dtype=np.float32)
    for x0, y0, x1, y1 in boxes:
        left, top, right, bottom = (max(0, round(end)) for end in (x0, y0, x1, y1))
        mask[top:bottom, left:right] = 1
    return mask


def with_boxes(images: FolderSet) -> FolderSet:
    """The folder with its ``boxes.csv``, if there is one.

    Raises:
        InputError: not such a file, or it names an image that is not there.
    """
    path = images.root / "boxes.csv"
    return BoxedSet(images, read_boxes(path, set(images.keys))) if path.is_file() else images


def read_boxes(path: Path, keys: set[str]) -> dict[str, list[Box]]:
    """Key to boxes, from the file; those of images that are there, but not among ``keys``, are left out."""
    found: dict[str, list[Box]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != BOX_COLUMNS:
                raise InputError(f"{path}: its first line must be {','.join(BOX_COLUMNS)}")
            for row in rows:
                x0, y0, x1, y1 = (float(row[name]) for name in BOX_COLUMNS[1:])
                if not all(map(math.isfinite, (x0, y0, x1, y1))):
                    raise InputError(f"{path}, line {rows.line_num}: x0, y0, x1 and y1 are pixels")
                if row["path"] not in keys and (path.parent / row["path"]).is_file():
                    continue  # of a class that was not picked
                if row["path"] not in keys:
                    raise InputError(f"{path}, line {rows.line_num}: no image {row['path']!r} (class folder/file name)")
                if not (x0 < x1 and y0 < y1):
                    raise InputError(f"{path}, line {rows.line_num}: the box is empty; it takes x0 < x1 and y0 < y1")
                found.setdefault(row["path"], []).append((x0, y0, x1, y1))
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: not a table of {','.join(BOX_COLUMNS)} with numbers: {error}") from error
    return found
