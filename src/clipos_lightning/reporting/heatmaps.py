"""A heat map for each of many images: the image, Delta, the ID-relevant patches; one small PNG each."""

from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..types import Explanation, Images
from ..utils.files import atomic_write
from .plots import colored, shade

MIN_PANEL_SIDE = 224  # pixels of a panel, at the least
GAP = 4


def write_heatmaps(
    folder: Path, paths: Sequence[str], images: Images, maps: Explanation, grid: tuple[int, int], rows: Sequence[int]
) -> None:
    """Write the heat maps of these rows of a batch below a folder.

    Args:
        folder: made where it is not there.
        paths: of the images; a heat map lies at its image's path below ``folder``.
        images: at the model's size, (B, 3, S, S).
        maps: what the detector saw.
        grid: the patch grid.
        rows: which images.
    """
    delta = (maps.surgery - maps.clip).reshape(-1, *grid).cpu().numpy()
    mask = maps.mask.reshape(-1, *grid).cpu().numpy()
    for i in rows:
        target = folder / heatmap_name(paths[i])
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(panels(images[i].permute(1, 2, 0).numpy(), delta[i], mask[i]))
        with atomic_write(target) as partial:
            picture.save(partial, "png")


def heatmap_name(path: str) -> Path:
    """Where an image's heat map lies: at the image's own path, below the folder of the heat maps.

    Example:
        >>> heatmap_name("../photos/cat.jpg").as_posix(), heatmap_name("/x/cat.jpg").as_posix()
        ('__/photos/cat.jpg.png', 'x/cat.jpg.png')
    """
    parts = ["__" if part == ".." else part for part in PurePath(path).parts if part != PurePath(path).anchor]
    return Path(*parts[:-1], f"{parts[-1]}.png")


def panels(image: NDArray[np.uint8], delta: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Image, Delta (red where the surgery path sees more of the class) and masked image, beside each other.

    Args:
        image: (S, S, 3).
        delta: (g, g), in [-1, 1].
        mask: (g, g).
    """
    side = -(-MIN_PANEL_SIDE // len(image)) * len(image)
    parts = [image, colored(delta, "RdBu_r", -1, 1), shade(image, mask)]
    large = [np.asarray(Image.fromarray(part).resize((side, side), Image.Resampling.NEAREST)) for part in parts]
    gap = np.full((side, GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([large[0], gap, large[1], gap, large[2]], axis=1)
