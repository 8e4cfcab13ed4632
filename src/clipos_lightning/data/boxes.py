"""Ground-truth boxes as object masks: ``boxes.csv`` next to the class folders, columns ``path,x0,y0,x1,y1``."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from .decoding import open_turned
from .image_sets import FolderSet, ImageSample
from .pixels import upright

Box = tuple[float, float, float, float]
BOX_COLUMNS = ["path", "x0", "y0", "x1", "y1"]


class BoxedSet(FolderSet):
    """A folder of images with ground-truth boxes, which become object masks; images without a box get an empty mask.

    Args:
        plain: the folder without boxes.
        boxes: image key to its boxes (x0, y0, x1, y1) in pixels as stored, before the EXIF orientation is applied; x1
            and y1 are exclusive.
    """

    def __init__(self, plain: FolderSet, boxes: Mapping[str, Sequence[Box]]) -> None:
        super().__init__(plain.name, plain.root, plain.keys, plain.labels)
        self.boxes, self.has_masks = boxes, True

    def read(self, position: int) -> ImageSample:
        """The image, and a mask that is 1 inside its boxes, turned upright with the image."""
        image, orientation = open_turned(self.root / self.keys[position], self.decoding)
        width, height = image.size if orientation < 5 else image.size[::-1]
        mask = fill_boxes(self.boxes.get(self.keys[position], ()), width, height)
        return ImageSample(image, np.array(upright(Image.fromarray(mask), orientation)))


def fill_boxes(boxes: Sequence[Box], width: int, height: int) -> NDArray[np.float32]:
    """Rasterise boxes to a mask (height, width): 1 inside any box, 0 outside.

    Args:
        boxes: (x0, y0, x1, y1) in pixels, rounded to integers; x1 and y1 are exclusive.
        width: of the mask.
        height: of the mask.

    >>> fill_boxes([(1, 0, 3, 1)], width=4, height=2)
    array([[0., 1., 1., 0.],
           [0., 0., 0., 0.]], dtype=float32)
    """
    mask = np.zeros((height, width), dtype=np.float32)
    for x0, y0, x1, y1 in boxes:
        left, top, right, bottom = (max(0, round(end)) for end in (x0, y0, x1, y1))
        mask[top:bottom, left:right] = 1
    return mask


def with_boxes(images: FolderSet) -> FolderSet:
    """Add the boxes of the folder's ``boxes.csv``; without that file, return the folder as it is.

    Raises:
        InputError: the file is malformed, or names an image that does not exist.
    """
    path = images.root / "boxes.csv"
    return BoxedSet(images, read_boxes(path, set(images.keys))) if path.is_file() else images


def read_boxes(path: Path, keys: set[str]) -> dict[str, list[Box]]:
    """Read a ``boxes.csv``.

    Args:
        path: the file; its paths are relative to its folder.
        keys: the images to read boxes for; boxes of other existing images are skipped.

    Returns:
        Image key to its boxes (x0, y0, x1, y1), in the order of the file.

    Raises:
        InputError: the file has other columns, a value that is not a finite number, an empty box, or the path of an
            image that does not exist.
    """
    found: dict[str, list[Box]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != BOX_COLUMNS:
                raise InputError(f"{path}: the first line must be {','.join(BOX_COLUMNS)}")
            for row in rows:
                x0, y0, x1, y1 = (float(row[name]) for name in BOX_COLUMNS[1:])
                if not all(map(math.isfinite, (x0, y0, x1, y1))):
                    raise InputError(f"{path}, line {rows.line_num}: x0, y0, x1 and y1 must be finite numbers (pixels)")
                if row["path"] not in keys and (path.parent / row["path"]).is_file():
                    continue  # the class was not selected
                if row["path"] not in keys:
                    raise InputError(f"{path}, line {rows.line_num}: no image {row['path']!r} (class folder/file name)")
                if not (x0 < x1 and y0 < y1):
                    raise InputError(f"{path}, line {rows.line_num}: the box is empty; x0 < x1 and y0 < y1 is required")
                found.setdefault(row["path"], []).append((x0, y0, x1, y1))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV table of {','.join(BOX_COLUMNS)} with numbers: {error}") from error
    return found
